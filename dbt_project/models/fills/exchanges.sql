select *
from values (
    'address String, contract_version String, name String',
    {%- for exchange in exchanges() %}
    ('{{ exchange.address }}', '{{ exchange.contract_version }}', '{{ exchange.name }}'){{ ',' if not loop.last }}
    {%- endfor %}
)
