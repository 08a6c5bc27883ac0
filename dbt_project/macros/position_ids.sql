{#-
    Position ids of Polymarket's PositionManager, which ExchangeV3 trades: 256-bit numbers that say themselves what they
    stand for. From the top: module 8 bits, hash 128, arity 16, reserved 64, resolution chain 16, condition 16, outcome 8.
    Source: Polymarket/polymarket-v2-external, README and docs/position-ids.md.
    Only a fill on V3 makes a token a position id: those of V1 and V2 are hashes, whose bits say nothing.
-#}
{#- The number behind the token of a fill; 0 unless it is a position id. -#}
{% macro position_id(token_id, contract_version) -%}
    toUInt256OrZero(if({{ contract_version }} = 'v3', toString({{ token_id }}), ''))
{%- endmacro %}

{% macro position_module(position_id) -%}
    toLowCardinality(multiIf(
        {{ position_id }} = 0, '',
        bitShiftRight({{ position_id }}, 248) = 1, 'binary',
        bitShiftRight({{ position_id }}, 248) = 2, 'neg_risk',
        bitShiftRight({{ position_id }}, 248) = 3, 'combo',
        'unknown'
    ))
{%- endmacro %}

{#- All but the outcome: 62 hex digits, as Gamma and the Data API write it. -#}
{% macro position_condition_id(position_id) -%}
    if({{ position_id }} = 0, '', concat('0x', substring({{ position_digits(position_id) }}, 1, 62)))
{%- endmacro %}

{#- All but condition and outcome: 58 hex digits, the same for all markets of one event. -#}
{% macro position_event_id(position_id) -%}
    if({{ position_id }} = 0, '', concat('0x', substring({{ position_digits(position_id) }}, 1, 58)))
{%- endmacro %}

{#- Position of the condition in its event. -#}
{% macro position_condition_index(position_id) -%}
    if({{ position_id }} = 0, null, toUInt16(bitAnd(bitShiftRight({{ position_id }}, 8), 65535)))
{%- endmacro %}

{#- 0 is YES and 1 is NO. -#}
{% macro position_outcome_index(position_id) -%}
    if({{ position_id }} = 0, null, toUInt8(bitAnd({{ position_id }}, 255)))
{%- endmacro %}

{% macro position_digits(position_id) -%}
    leftPad(lower(hex({{ position_id }})), 64, '0')
{%- endmacro %}
