{#-
    Days on which a copy sorted in another way has other rows than what it copies. The sum of hashes is that of the same rows
    in any order, and needs no memory per row.
-#}
{% macro days_that_differ(copy, original, columns) %}
with copies as (

    select
        toDate(filled_at) as day,
        count() as row_count,
        sumWithOverflow(cityHash64({{ columns }})) as checksum
    from {{ copy }}
    where {{ in_conservation_days('filled_at') }}
    group by day

),

originals as (

    select
        toDate(filled_at) as day,
        count() as row_count,
        sumWithOverflow(cityHash64({{ columns }})) as checksum
    from {{ original }}
    where {{ in_conservation_days('filled_at') }}
    group by day

)

select
    day,
    copies.row_count as rows_of_copy,
    originals.row_count as rows_of_original
from copies
full outer join originals using (day)
where copies.checksum != originals.checksum or copies.row_count != originals.row_count
{% endmacro %}
