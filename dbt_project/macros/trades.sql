{#- What users read of a store of trades that is sorted in any way: its rows with the market of their token. -#}
{% macro trades_with_markets(relation) %}
with trades as (

    select
        *,
        {{ position_id('token_id', 'contract_version') }} as position_id
    from {{ relation }}

),

tokens as (

    select * from {{ ref('outcome_tokens') }}

)

select
    ---------- ids
    {{ fill_key() }} as trade_id,
    contract_version,
    exchange,
    block_number,
    log_index,
    tx_hash,
    order_hash,

    ---------- time
    filled_at,

    ---------- what was traded
    wallet,
    side,
    trades.token_id as token_id,
    {{ position_module('position_id') }} as module,
    match_type,
    maker_legs,
    shares,
    usd,
    price,
    fee,
    fee_asset,
    {{ fee_in_usd() }} as fee_usd,
    is_dust,

    ---------- the other side
    maker_shares,
    maker_usd,
    maker_fee_usd,

    ---------- market; empty until Gamma lists it, but for what a position id says itself
    {{ market_of_token() }}
from trades
left any join tokens on trades.token_id = tokens.token_id
{% endmacro %}

{#- What users read of fills by wallet that are sorted in any way: with the market of their token. -#}
{% macro wallet_fills_with_markets(relation) %}
with fills as (

    select
        *,
        {{ position_id('token_id', 'contract_version') }} as position_id
    from {{ relation }}

),

tokens as (

    select * from {{ ref('outcome_tokens') }}

)

select
    ---------- ids
    fill_id,
    contract_version,
    exchange,
    block_number,
    log_index,
    tx_hash,
    order_hash,

    ---------- time
    filled_at,

    ---------- the wallet's own side
    wallet,
    role,
    side,
    fills.token_id as token_id,
    shares,
    usd,
    price,
    fee,
    fee_asset,
    fee_usd,
    shares_change,
    usd_change,
    is_dust,

    ---------- market; empty until Gamma lists it, but for what a position id says itself
    {{ market_of_token() }}
from fills
left any join tokens on fills.token_id = tokens.token_id
{% endmacro %}

{#- What a fill did to the shares and dollars of a wallet; a fee comes off what it is charged in. -#}
{% macro shares_change() -%}
    if(side = 'BUY', shares, -shares) - if(fee_asset = 'shares', fee, toDecimal128(0, 6))
{%- endmacro %}

{% macro usd_change() -%}
    if(side = 'BUY', -usd, usd) - if(fee_asset = 'usd', fee, toDecimal128(0, 6))
{%- endmacro %}
