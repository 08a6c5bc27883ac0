select
    ---------- ids
    event_id,
    neg_risk_market_id,

    ---------- text
    slug,
    title,
    series_slug,
    tags,
    tag_slugs,

    ---------- numbers
    volume_usd,
    liquidity_usd,

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
from {{ ref('events_store') }} final
