select
    ---------- ids
    market_id,
    condition_id,
    question_id,
    neg_risk_market_id,
    event_ids,

    ---------- text
    slug,
    question,
    group_item_title,
    event_slug,
    category,
    description,
    resolution_source,
    sports_market_type,
    game_id,
    fee_type,

    ---------- outcomes, by outcome index
    outcomes,
    {{ prices_from_texts('outcome_prices') }} as outcome_prices,
    token_ids,

    ---------- resolution
    uma_resolution_status,
    resolution,
    winning_outcome_index,
    winning_outcome,

    ---------- numbers
    volume_usd,
    liquidity_usd,
    tick_size,
    volume_usd_24h,
    order_min_size,
    best_bid,
    best_ask,
    spread,
    last_trade_price,
    maker_base_fee,
    taker_base_fee,
    fee_rate,
    fee_exponent,
    fee_rebate_rate,
    line,
    group_item_threshold,

    ---------- booleans
    active,
    closed,
    neg_risk,
    fees_enabled,
    fee_taker_only,

    ---------- times
    created_at,
    end_at,
    closed_at,
    updated_at,
    start_at,
    game_start_at,
    event_start_at,
    fetched_at
from {{ final(ref('markets_store')) }}
