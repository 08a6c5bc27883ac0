select
    ---------- ids
    if(block_number > 0, concat(tx_hash, '_', toString(log_index)), concat(tx_hash, '_', order_hash)) as fill_id,
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
    is_dust
from {{ ref('order_fills_store') }} final
