-- A maker leg belongs to the next taker leg of the wallet that it names; the others are trades of their own.
with legs as (

    select
        *,
        arraySort(groupArrayIf((log_index, maker, fill_id), leg = 'taker') over (partition by filled_at, tx_hash)) as taker_legs,
        arrayFirst(t -> t.2 = taker and (t.1 > log_index or block_number = 0), taker_legs) as taker_leg,
        {{ position_id('token_id', 'contract_version') }} as position_id
    from {{ ref('int_order_fills_deduplicated') }}

),

tokens as (

    select * from {{ ref('outcome_tokens') }}

)

select
    ---------- ids
    if(leg = 'maker', taker_leg.3, fill_id) as trade_id,
    fill_id,
    block_number,
    log_index,
    tx_hash,
    order_hash,

    ---------- time
    filled_at,

    ---------- parties
    leg,
    maker as wallet,
    taker as counterparty,

    ---------- what was exchanged
    side,
    legs.token_id as token_id,
    shares,
    usd,
    price,
    fee,
    fee_asset,
    fee_usd,
    is_dust,

    ---------- market; empty until Gamma lists it, but for what a position id says itself
    {{ market_of_token() }}
from legs
left any join tokens on legs.token_id = tokens.token_id
