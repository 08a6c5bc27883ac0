with fills as (

    select
        *,
        {{ position_id('token_id', 'contract_version') }} as position_id
    from {{ final(ref('fills_by_wallet_store')) }}

),

tokens as (

    select * from {{ ref('outcome_tokens') }}

)

select
    ---------- ids
    {{ fill_key() }} as fill_id,
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
    {{ fee_in_usd() }} as fee_usd,
    {{ shares_change() }} as shares_change,
    {{ usd_change() }} as usd_change,
    is_dust,

    ---------- market; empty until Gamma lists it, but for what a position id says itself
    {{ market_of_token() }}
from fills
left any join tokens on fills.token_id = tokens.token_id
