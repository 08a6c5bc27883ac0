select
    ---------- ids
    event_id,
    neg_risk_market_id,
    market_ids,

    ---------- text
    slug,
    title,
    series_slug,

    ---------- tags, in one order
    tags,
    tag_slugs,
    tag_ids,

    ---------- series, in one order
    series_ids,
    series_slugs,
    series_titles,
    series_recurrences,

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
from {{ final(ref('events_store')) }}
