{#-
    Production and developers. Production is the schema whose landing tables are `<schema>_raw`; it has materialized views on
    them, and its stores settle loads. Every other schema reads the landing tables of `var('raw_schema')` and never hangs
    anything on them; its stores are derived anew by each run, from the last `dev_days` days. docs/dbt.md shows how to use it.
-#}

{#- Where the landing tables are. staging/sources.yml repeats this text, because it can call no macro. -#}
{% macro raw_schema() -%}
    {{ return(var('raw_schema', env_var('CLICKHOUSE_DATABASE', 'polymarket') ~ '_raw' if target.name == 'dev' else target.schema ~ '_raw')) }}
{%- endmacro %}

{% macro is_production() -%}
    {{ return(raw_schema() == target.schema ~ '_raw') }}
{%- endmacro %}

{#- Condition on a time of trading: the whole days of which a developer's stores are made, up to that of the newest fill. (Unit tests have no landing table.) -#}
{% macro in_dev_days(at) -%}
    {%- if model.resource_type == 'unit_test' -%}
        true
    {%- else -%}
        {{ at }} >= (
            select toStartOfDay(max(timestamp)) - toIntervalDay({{ var('dev_days') | int - 1 }})
            from {{ source('polymarket_raw', 'order_filled') }}
        )
    {%- endif -%}
{%- endmacro %}

{#- dbt asks this of every incremental model. A developer's schema has no ledger of its own, so it never settles. -#}
{% macro should_full_refresh() %}
    {{ return(true if not is_production() else dbt.should_full_refresh()) }}
{% endmacro %}

{#-
    A relation with the older versions of its rows left out. Under --empty and --sample dbt puts a subquery in place of a
    relation, and `final` must stand inside of it.
-#}
{% macro final(relation) -%}
    {%- set name = relation.render() -%}
    {{ relation | string | replace(name, name ~ ' final', 1) }}
{%- endmacro %}

{#- Refuses commands that would harm readers, or fail later in words that do not say why. -#}
{% macro refuse_what_cannot_work() %}
    {%- if execute and flags.WHICH in ('run', 'build', 'seed', 'snapshot', 'retry', 'test') %}
        {%- set raw = raw_schema() %}
        {%- if is_production() and flags.WHICH != 'test' and (flags.EMPTY or invocation_args_dict.get('sample')) %}
            {% do exceptions.raise_compiler_error(
                '--empty and --sample would leave the views of ' ~ target.schema ~ ' without rows: use them in a schema of your own,'
                ~ ' as with --target dev'
            ) %}
        {%- endif %}
        {%- if target.schema == raw %}
            {% do exceptions.raise_compiler_error('models cannot be built in ' ~ raw ~ ', which holds the landing tables') %}
        {%- endif %}
        {%- if not adapter.check_schema_exists('', raw) %}
            {% do exceptions.raise_compiler_error(
                'there is no database ' ~ raw ~ ' with landing tables: load some with `python run_pipeline.py`, or name the one to'
                ~ " read, with --target dev or --vars 'raw_schema: polymarket_raw'"
            ) %}
        {%- endif %}
    {%- endif %}
{% endmacro %}

{#-
    `dbt clone` copies stores into a developer's schema, which costs nothing until they change. dbt's own clone of a view
    reads production's view and not the copied stores, so views are refused.
-#}
{% materialization clone, adapter='clickhouse' %}
    {%- if is_production() %}
        {% do exceptions.raise_compiler_error('dbt clone does not write into production: use it with --target dev') %}
    {%- elif config.get('materialized') != 'incremental' %}
        {% do exceptions.raise_compiler_error(
            'a clone of a view would read production: clone the stores alone, with --select config.materialized:incremental,'
            ~ ' then make the views with `dbt run --select config.materialized:view`'
        ) %}
    {%- endif %}
    {{ return(dbt.materialization_clone_default()) }}
{% endmaterialization %}
