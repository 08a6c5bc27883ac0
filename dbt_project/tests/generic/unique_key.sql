{#- Fails for every key that stands in more than one row. Hashes the key: grouping by text keys takes gigabytes. -#}
{% test unique_key(model, columns) %}
select
    cityHash64({{ columns | join(', ') }}) as key_hash,
    count() as copies
from {{ model }}
group by key_hash
having copies > 1
{% endtest %}
