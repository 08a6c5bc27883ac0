{#- The settings of dbt_project.yml, for materialized views: dbt-clickhouse writes them into views and inserts only. -#}
{% macro pinned_settings() -%}
{{ adapter.get_model_query_settings(model) }}
{%- endmacro %}
