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
from {{ final(ref('markets_store')) }}
