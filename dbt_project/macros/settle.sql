{#-
    Settling: every table that is derived from a landing table is an incremental model whose incremental query yields
    the rows that the loads marked `settling` in the ledger change. Run without any such load it yields nothing, run
    twice it yields the same rows again, and a ReplacingMergeTree keeps one of them. Without an existing table (or with
    --full-refresh) the same model derives everything.

    The pipeline compiles this text (`dbt compile`) and binds each of its settles to an id by a query parameter, so that a
    statement of a run that lost its lock finds no load to settle. `dbt run` has no parameters: by itself it settles
    whatever is marked; under the pipeline, which settles afterwards, it settles nothing.
-#}

{% macro replacing(arguments) -%}
    {{ 'Replicated' if env_var('CLICKHOUSE_CLUSTER', '') else '' }}ReplacingMergeTree({{ arguments }})
{%- endmacro %}

{#-
    First CTE of every incremental query: the loads that are being settled, as one row.

    from_at, to_at: first and last second of their rows; both inclusive.
    version: of everything that this settle writes, later than any load and any settle before it.
    is_rebuild: whether every row of the range is settled again, whichever load brought it.
    load_ids: the loads themselves.
-#}
{% macro settling(table_name='order_filled') -%}
{%- if is_incremental() -%}
settling as (

    select
        toDateTime(min(from_at), 'UTC') as from_at,
        toDateTime(max(to_at), 'UTC') as to_at,
        max(settle_id) as version,
        max(is_rebuild) as is_rebuild,
        groupArray(load_id) as load_ids
    from {{ final(source('polymarket_raw', 'loads')) }}
    where table_name = '{{ table_name }}' and state = 'settling'{{ and_of_this_settle() }}

),
{%- endif -%}
{%- endmacro %}

{% macro and_of_this_settle() -%}
    {%- if flags.WHICH == 'compile' %} and settle_id = {settle_id:UInt64}
    {%- elif env_var('POLYMARKET_ELT_FENCE', '') %} and settle_id = 0
    {%- endif %}
{%- endmacro %}

{#-
    Version of everything that a full refresh writes: the last id before any load that was not settled when it began. By it
    `pipeline/derive/replaced.py` knows which loads were settled into the table that it has replaced. (Unit tests have no ledger.)
-#}
{% macro refresh_id() -%}
    {%- if model.resource_type == 'unit_test' -%}
        toUInt64(0)
    {%- else -%}
        assumeNotNull((
            select
                toUInt64(
                    if(
                        countIf(state = 'settling') > 0,
                        toInt64(minIf(settle_id, state = 'settling')) - 1,
                        toInt64(max(greatest(load_id, settle_id)))
                    )
                )
            from {{ final(source('polymarket_raw', 'loads')) }}
        ))
    {%- endif -%}
{%- endmacro %}

{#- Version of the rows that a model computes anew. -#}
{% macro new_version() -%}
    {{ '(select version from settling)' if is_incremental() else refresh_id() }}
{%- endmacro %}

{#-
    Version of rows that a settle withdraws from a copy. One less than that of what stands, so that a row which is computed
    again wins over its withdrawal without a sort; later than anything before this settle, be it by coming after it.
-#}
{% macro withdrawal_version() -%}
    (select version - 1 from settling)
{%- endmacro %}

{#- Version of rows that only say what is: in a settle those that it touches have its own. -#}
{% macro live_version() -%}
    {{ 'toUInt64(0)' if is_incremental() else refresh_id() }}
{%- endmacro %}

{#- True for rows of the loads being settled, and for every row while a range is being rebuilt. -#}
{% macro in_settling_load() -%}
    (load_id in (select arrayJoin(load_ids) from settling) or (select is_rebuild from settling))
{%- endmacro %}

{#- Condition on rows of a store: this settle wrote them, for `time` in its range or, with `first`, from there on. -#}
{% macro written_by_this_settle(time, first='(select from_at from settling)') -%}
    {{ time }} between {{ first }} and (select to_at from settling) and version = (select version from settling)
{%- endmacro %}

{#- Condition on a store of candles: this range is being rebuilt, so its buckets are touched whoever wrote them. -#}
{% macro in_rebuilt_range(time, first='(select from_at from settling)') -%}
    {{ time }} between {{ first }} and (select to_at from settling) and (select is_rebuild from settling)
{%- endmacro %}

{#-
    Condition for the seconds in which the loads being settled have a fill, which are what is computed again: whole, so with
    the rest of each transaction. A rebuild also touches the seconds that only the derived table knows.
-#}
{% macro in_touched_seconds(time, derived) -%}
    {{ time }} between (select from_at from settling) and (select to_at from settling)
    and {{ time }} in (
        select timestamp
        from {{ source('polymarket_raw', 'order_filled') }}
        where
            timestamp between (select from_at from settling) and (select to_at from settling)
            and {{ in_settling_load() }}
        union distinct
        select filled_at
        from {{ derived }}
        where {{ in_rebuilt_range('filled_at') }}
    )
{%- endmacro %}
