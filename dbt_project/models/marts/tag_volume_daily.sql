with volumes as (

    select * from {{ ref('market_volume_daily') }}

),

-- A market has a tag once, in however many of its events.
tags as (

    select distinct
        pairs.market_id as market_id,
        event_tags.tag_slug as tag_slug
    from {{ ref('markets_events') }} as pairs
    inner all join {{ ref('event_tags') }} as event_tags on pairs.event_id = event_tags.event_id

)

select
    volumes.day as day,
    tags.tag_slug as tag_slug,
    sum(volumes.volume_usd) as volume_usd,
    sum(volumes.volume_shares) as volume_shares,
    sum(volumes.trades) as trades
from volumes
inner all join tags on volumes.market_id = tags.market_id
group by day, tag_slug
