{#-
    Fails for every day for which the materialized view, as it is deployed in ClickHouse, makes other rows of the landing
    table than its staging twin. The sum of hashes is that of the same rows in any order, and needs no memory per row.

    twin: relation or subquery with the rows that the view has to write.
    at: column by which days are told apart; the last `conservation_days` of them are compared.
    reads: name of the table of which the view writes rows; instead: what to read in its place, if not that table itself.
-#}
{% test writes_what_staging_says(model, twin, at, days, reads=none, instead=none) %}
{%- set text = 'select 1' -%}
{%- if execute -%}
    {%- set found = run_query(
        "select as_select from system.tables where database = '" ~ model.schema ~ "' and name = '" ~ model.identifier ~ "'"
    ) -%}
    {#- A view that is missing is compiled all the same, and fails the test where it runs. -#}
    {%- set text = found.rows[0]['as_select'] if found.rows else 'select * from ' ~ model -%}
    {%- if reads -%}
        {%- set text = modules.re.sub('FROM `?[^ `]+`?\\.`?' ~ reads ~ '`?(?=\\s|$)', 'FROM ' ~ instead, text) -%}
    {%- endif -%}
{%- endif %}
with written as (

    select
        toDate({{ at }}) as day,
        count() as row_count,
        sumWithOverflow(sipHash64(toString(tuple(* except (load_id, version))))) as checksum
    from ({{ text }})
    where {{ days }}
    group by day

),

expected as (

    select
        toDate({{ at }}) as day,
        count() as row_count,
        sumWithOverflow(sipHash64(toString(tuple(* except (load_id, version))))) as checksum
    from {{ twin }}
    where {{ days }}
    group by day

)

select
    day,
    written.row_count as written_rows,
    expected.row_count as expected_rows
from written
full outer join expected using (day)
where written.checksum != expected.checksum or written.row_count != expected.row_count
{% endtest %}
