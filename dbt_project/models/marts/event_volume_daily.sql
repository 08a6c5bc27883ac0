with volumes as (

    select * from {{ ref('market_volume_daily') }}

),

pairs as (

    select
        market_id,
        event_id
    from {{ ref('markets_events') }}

)

select
    volumes.day as day,
    pairs.event_id as event_id,
    sum(volumes.volume_usd) as volume_usd,
    sum(volumes.volume_shares) as volume_shares,
    sum(volumes.trades) as trades
from volumes
inner all join pairs on volumes.market_id = pairs.market_id
group by day, event_id
