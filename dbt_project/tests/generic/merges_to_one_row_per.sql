{#-
    Fails unless ClickHouse, when it merges the store, keeps one row of equal key: the engine replaces, and sorts by the key.
    unique_key tests the rows themselves, in the promised view; this asks for the table and costs nothing.
-#}
{% test merges_to_one_row_per(model, key) %}
select countIf(endsWith(engine, 'ReplacingMergeTree') and sorting_key in ('{{ key }}', '({{ key }})')) as stores_of_that_key
from system.tables
where database = '{{ model.schema }}' and name = '{{ model.identifier }}'
having stores_of_that_key != 1
{% endtest %}
