-- Reads two days of hourly candles and one of trades. Only the price before the window may be older: daily candles say
-- in which hour a token traded last, and only such hours are read.
{%- set start = last_24h_start() -%}
{%- set previous_start = start ~ ' - interval 24 hour' %}
with tokens as (

    select
        token_id,
        market_id
    from {{ ref('outcome_tokens') }}

),

volumes as (

    select
        tokens.market_id as market_id,
        sumIf(hours.volume_usd, hours.bucket_at >= {{ start }}) as volume_usd_24h,
        sumIf(hours.volume_usd, hours.bucket_at < {{ start }}) as volume_usd_previous_24h,
        sumIf(hours.trades, hours.bucket_at >= {{ start }}) as trades_24h
    from {{ ref('ohlcv_1h') }} as hours
    inner all join tokens on hours.token_id = tokens.token_id
    where hours.bucket_at >= {{ previous_start }}
    group by market_id
    having trades_24h > 0

),

traders as (

    select
        market_id,
        uniqExact(wallet) as traders_24h
    from {{ ref('trades') }}
    where filled_at >= {{ start }} and not is_dust
    group by market_id

),

trending_tokens as (

    select token_id
    from tokens
    where market_id in (select market_id from volumes)

),

-- Days that end before the window starts, so whatever traded last in them did so before it.
earlier_hours as (

    select toStartOfHour(max(last_trade_at)) as hour_at
    from {{ ref('ohlcv_1d') }}
    where bucket_at <= {{ previous_start }} and token_id in (select token_id from trending_tokens)
    group by token_id

),

prices as (

    select
        market_id,
        toNullable(argMax(close, bucket_at)) as price,
        argMaxOrNullIf(close, bucket_at, bucket_at < {{ start }}) as price_24h_ago
    from {{ ref('market_ohlcv_1h') }}
    where bucket_at >= {{ previous_start }} or bucket_at in (select hour_at from earlier_hours)
    group by market_id

)

select
    volumes.market_id as market_id,
    coalesce(markets.question, '') as question,
    coalesce(markets.event_slug, '') as event_slug,
    volumes.volume_usd_24h as volume_usd_24h,
    volumes.volume_usd_previous_24h as volume_usd_previous_24h,
    toFloat64(volume_usd_24h) / nullIf(toFloat64(volume_usd_previous_24h), 0) - 1 as volume_change,
    volumes.trades_24h as trades_24h,
    coalesce(traders.traders_24h, 0) as traders_24h,
    prices.price as price,
    prices.price_24h_ago as price_24h_ago,
    prices.price - prices.price_24h_ago as price_change,
    assumeNotNull({{ start }}) as window_start_at,
    assumeNotNull((select max(priced_at) from {{ ref('market_latest_price') }})) as as_of
from volumes
left any join {{ ref('markets') }} as markets on volumes.market_id = markets.market_id
left any join traders on volumes.market_id = traders.market_id
left any join prices on volumes.market_id = prices.market_id
