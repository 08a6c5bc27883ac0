-- A maker leg belongs to the next taker leg of the wallet that it names; the others are trades of their own.
with legs as (

    select
        *,
        arraySort(groupArrayIf((log_index, maker, fill_id), leg = 'taker') over (partition by filled_at, tx_hash)) as taker_legs,
        arrayFirst(t -> t.2 = taker and (t.1 > log_index or block_number = 0), taker_legs) as taker_leg
    from {{ ref('order_fills') }}

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
    token_id,
    shares,
    usd,
    price,
    fee,
    fee_asset,
    fee_usd,
    is_dust
from legs
