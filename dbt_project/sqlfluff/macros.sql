{#- Stand-ins for what only dbt knows, so that sqlfluff can render the models; dbt does not read this folder. -#}
{% macro env_var(name, default='') %}{{ default }}{% endmacro %}
{% macro materialization_target_table(relation) %}{% endmacro %}
{% macro pinned_settings() %}{% endmacro %}
{% macro is_production() %}{{ return(true) }}{% endmacro %}
{% macro final(relation) %}{{ relation }} final{% endmacro %}
