with tokens as (

    select
        token_id,
        market_id
    from {{ ref('outcome_tokens') }}

),

all_time as (

    select
        tokens.market_id as market_id,
        sum(days.volume_usd) as volume_usd,
        sum(days.volume_shares) as volume_shares,
        sum(days.trades) as trades,
        max(days.last_trade_at) as last_traded_at
    from {{ ref('ohlcv_1d') }} as days
    inner all join tokens on days.token_id = tokens.token_id
    group by market_id

),

last_24h as (

    select
        tokens.market_id as market_id,
        sum(hours.volume_usd) as volume_usd
    from {{ ref('ohlcv_1h') }} as hours
    inner all join tokens on hours.token_id = tokens.token_id
    where hours.bucket_at >= {{ last_24h_start() }}
    group by market_id

),

volumes as (

    select
        pairs.event_id as event_id,
        count() as markets,
        sum(coalesce(all_time.volume_usd, toDecimal128(0, 6))) as volume_usd,
        sum(coalesce(all_time.volume_shares, toDecimal128(0, 6))) as volume_shares,
        sum(coalesce(all_time.trades, 0)) as trades,
        sum(coalesce(last_24h.volume_usd, toDecimal128(0, 6))) as volume_usd_24h,
        max(all_time.last_traded_at) as last_traded_at
    from {{ ref('markets_events') }} as pairs
    left any join all_time on pairs.market_id = all_time.market_id
    left any join last_24h on pairs.market_id = last_24h.market_id
    group by event_id

)

select
    events.event_id as event_id,
    events.title as title,
    events.slug as slug,
    coalesce(volumes.markets, 0) as markets,
    coalesce(volumes.volume_usd, toDecimal128(0, 6)) as volume_usd,
    coalesce(volumes.volume_shares, toDecimal128(0, 6)) as volume_shares,
    coalesce(volumes.trades, 0) as trades,
    coalesce(volumes.volume_usd_24h, toDecimal128(0, 6)) as volume_usd_24h,
    if(coalesce(volumes.trades, 0) = 0, null, volumes.last_traded_at) as last_traded_at
from {{ ref('events') }} as events
left any join volumes on events.event_id = volumes.event_id
