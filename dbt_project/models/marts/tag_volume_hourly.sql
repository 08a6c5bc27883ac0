with tokens as (

    select
        token_id,
        market_id
    from {{ ref('outcome_tokens') }}

),

volumes as (

    select
        hours.bucket_at as hour_at,
        tokens.market_id as market_id,
        sum(hours.volume_usd) as volume_usd,
        sum(hours.volume_shares) as volume_shares,
        sum(hours.trades) as trades
    from {{ ref('ohlcv_1h') }} as hours
    inner all join tokens on hours.token_id = tokens.token_id
    group by hour_at, market_id

),

tags as (

    {{ tags_of_markets() }}

)

select
    volumes.hour_at as hour_at,
    tags.tag_slug as tag_slug,
    sum(volumes.volume_usd) as volume_usd,
    sum(volumes.volume_shares) as volume_shares,
    sum(volumes.trades) as trades
from volumes
inner all join tags on volumes.market_id = tags.market_id
group by hour_at, tag_slug
