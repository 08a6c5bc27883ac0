with volumes as (

    select * from {{ ref('market_volume_daily') }}

),

tags as (

    {{ tags_of_markets() }}

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
