with fills as (

    select
        *,
        {{ position_id('token_id', 'contract_version') }} as position_id
    from {{ ref('int_order_fills_deduplicated') }}

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

    ---------- parties
    maker,
    taker,
    leg,

    ---------- what was exchanged
    side,
    fills.token_id as token_id,
    shares,
    usd,
    price,
    fee,
    fee_asset,
    fee_usd,
    is_dust,

    ---------- market; empty until Gamma lists it, but for what a position id says itself
    {{ market_of_token() }}
from fills
left any join tokens on fills.token_id = tokens.token_id
