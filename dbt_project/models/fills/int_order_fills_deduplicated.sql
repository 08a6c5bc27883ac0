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

    ---------- parties
    maker,
    taker,
    leg,

    ---------- what was exchanged
    side,
    token_id,
    shares,
    usd,
    price,
    fee,
    fee_asset,
    {{ fee_in_usd() }} as fee_usd,
    is_dust
from {{ final(ref('order_fills_store')) }}
