with markets as (

    select * from {{ ref('markets') }}

),

events as (

    select * from {{ ref('events') }}

),

-- Either side may name the other first, so a pair counts as soon as one of them does.
pairs as (

    select
        market_id,
        arrayJoin(event_ids) as event_id
    from markets
    union distinct
    select
        arrayJoin(market_ids) as market_id,
        event_id
    from events

)

select
    ---------- ids
    pairs.market_id as market_id,
    pairs.event_id as event_id,
    coalesce(markets.condition_id, '') as condition_id,

    ---------- text
    coalesce(markets.question, '') as question,
    coalesce(markets.slug, '') as market_slug,
    coalesce(events.title, '') as title,
    coalesce(events.slug, '') as event_slug,
    coalesce(events.series_slug, '') as series_slug,
    events.tags as tags,
    events.tag_slugs as tag_slugs,

    ---------- booleans
    coalesce(markets.active, false) as active,
    coalesce(markets.closed, false) as closed,

    ---------- numbers
    markets.volume_usd as volume_usd
from pairs
left any join markets on pairs.market_id = markets.market_id
left any join events on pairs.event_id = events.event_id
where pairs.market_id != '' and pairs.event_id != ''
