select
    ---------- ids
    market_id,
    condition_id,
    question_id,
    neg_risk_market_id,

    ---------- text
    slug,
    question,
    event_slug,
    category,
    uma_resolution_status,

    ---------- outcomes, by outcome index
    outcomes,
    outcome_prices,
    token_ids,

    ---------- numbers
    volume_usd,
    liquidity_usd,
    tick_size,

    ---------- booleans
    active,
    closed,
    neg_risk,

    ---------- times
    created_at,
    end_at,
    closed_at,
    updated_at,
    fetched_at
from {{ ref('markets_store') }} final
