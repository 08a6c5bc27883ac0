{#- Every exchange contract whose OrderFilled events count, lower case. A fill whose taker is one of them is the taker
    leg of a match. Source: Polymarket's contract list; "NegRisk B" is in two independent indexers' lists only. -#}
{% macro exchanges() %}
    {{ return([
        {'address': '0x4bfb41d5b3570defd03c39a9a4d8de6bd8b8982e', 'contract_version': 'v1', 'name': 'CTF Exchange'},
        {'address': '0xc5d563a36ae78145c45a50134d48a1215220f80a', 'contract_version': 'v1', 'name': 'NegRisk Exchange'},
        {'address': '0xe111180000d2663c0091e4f400237545b87b996b', 'contract_version': 'v2', 'name': 'CTF Exchange'},
        {'address': '0xe2222d279d744050d28e00520010520000310f59', 'contract_version': 'v2', 'name': 'NegRisk Exchange'},
        {'address': '0xe2222d002000ba0053cef3375333610f64600036', 'contract_version': 'v2', 'name': 'NegRisk Exchange B'},
        {'address': '0xe3333700ca9d93003f00f0f71f8515005f6c00aa', 'contract_version': 'v3', 'name': 'ExchangeV3'},
    ]) }}
{% endmacro %}

{% macro exchange_addresses() -%}
    {%- for exchange in exchanges() %}'{{ exchange.address }}'{{ ', ' if not loop.last }}{% endfor -%}
{%- endmacro %}

{% macro exchange_generations() -%}
    {%- for exchange in exchanges() %}('{{ exchange.contract_version }}', '{{ exchange.address }}'){{ ', ' if not loop.last }}{% endfor -%}
{%- endmacro %}

{% macro contract_versions() -%}
    '{{ exchanges() | map(attribute='contract_version') | unique | join("', '") }}'
{%- endmacro %}
