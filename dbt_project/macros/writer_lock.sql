{#-
    Plain `dbt run` beside a run of the pipeline: both write the same tables, and a full refresh would put aside what the
    other has settled meanwhile. So commands that write are refused while a live run holds the writer lock
    (`pipeline/warehouse/lock.py`). The pipeline's own dbt runs say by POLYMARKET_ELT_FENCE under which number they hold it.
-#}
{% macro refuse_beside_a_writer() %}
    {%- if execute and flags.WHICH in ('run', 'build', 'seed', 'snapshot', 'clone', 'retry') %}
        {%- set raw = target.schema ~ '_raw' %}
        {%- set fence = env_var('POLYMARKET_ELT_FENCE', '') %}
        {%- set newest = newest_writer_lock(raw) %}
        {%- if fence and (not newest or newest.number != fence | int) %}
            {% do exceptions.raise_compiler_error('this run lost the writer lock; start it again') %}
        {%- elif newest and not fence and is_held(raw, newest) %}
            {% do exceptions.raise_compiler_error(
                newest.verb ~ ' (pid ' ~ newest.pid ~ ' on ' ~ newest.host ~ ') is writing into ' ~ raw
                ~ ': stop it first. If it has died, wait ' ~ newest.ttl_s | int ~ ' seconds, or use `python run_pipeline.py dbt '
                ~ flags.WHICH ~ '`, which sees that'
            ) %}
        {%- endif %}
    {%- endif %}
{% endmacro %}

{#- Number and holder of the newest writer lock, as its table says; none if there is no lock. -#}
{% macro newest_writer_lock(raw) %}
    {%- set found = run_query(
        "select
            toUInt32(substring(name, length('writer_lock_') + 1)) as number,
            substring(comment, position(comment, '{')) as holder,
            JSONExtractString(holder, 'verb') as verb,
            JSONExtractString(holder, 'host') as host,
            JSONExtractUInt(holder, 'pid') as pid,
            JSONExtractFloat(holder, 'ttl_s') as ttl_s,
            JSONExtractString(holder, 'acquired_at') as acquired_at
        from system.tables
        where database = '" ~ raw ~ "' and match(name, '^writer_lock_[0-9]+$')
        order by number desc
        limit 1"
    ) %}
    {%- if found.rows %}
        {%- set row = found.rows[0] %}
        {{ return({
            'number': row['number'] | int,
            'verb': row['verb'],
            'host': row['host'],
            'pid': row['pid'],
            'ttl_s': row['ttl_s'],
            'acquired_at': row['acquired_at'],
        }) }}
    {%- endif %}
    {{ return(none) }}
{% endmacro %}

{#- Whether the holder has not released a lock and was heard of within its time to live. -#}
{% macro is_held(raw, lock) %}
    {%- set found = run_query(
        "select
            max(released) = 0
            and dateDiff(
                'second',
                greatest(max(beat_at), parseDateTime64BestEffort('" ~ lock.acquired_at ~ "', 6, 'UTC')),
                now64(6, 'UTC')
            ) <= " ~ lock.ttl_s ~ " as is_held
        from " ~ raw ~ ".writer_lock_" ~ lock.number
    ) %}
    {{ return(found.rows[0]['is_held'] | int == 1) }}
{% endmacro %}
