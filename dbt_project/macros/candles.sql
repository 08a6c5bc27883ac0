{#-
    Candles of one bucket length from trades. Incrementally: the buckets that the trades written by this settle fall
    into (withdrawn ones included) are computed again from all their trades, and a bucket left without any is
    withdrawn. Whole buckets at both ends, or a load that ends in the middle of one would cut it off.
    Dust is left out. With `positions`, a candle also says where its first and last trade stand, so that candles of
    several tokens can be put together in the order of execution.
-#}
{% macro candles_from_trades(to_start_of_bucket, positions=false) %}
{%- set rebuilt = in_rebuilt_range('bucket_at', to_start_of_bucket ~ '((select from_at from settling))') -%}
with
{{ settling() }}

trades as (

    select
        token_id,
        {{ to_start_of_bucket }}(filled_at) as bucket_at,
        filled_at,
        {{ execution_position() }} as position,
        toFloat64(price) as price,
        usd,
        shares,
        {{ live_version() }} as version,
        1 as is_live
    from {{ ref('int_trades_deduplicated') }}
    where not is_dust
    {%- if is_incremental() %}
        and filled_at >= {{ to_start_of_bucket }}((select from_at from settling))
        and {{ to_start_of_bucket }}(filled_at) <= (select to_at from settling)
        and (token_id, {{ to_start_of_bucket }}(filled_at)) in (
            select
                token_id,
                {{ to_start_of_bucket }}(filled_at)
            from {{ ref('trades_store') }}
            where {{ written_by_this_settle('filled_at') }}
            union distinct
            select
                token_id,
                bucket_at
            from {{ this }}
            where {{ rebuilt }}
        )
    {%- elif not is_production() %}
        and {{ in_dev_days('filled_at') }}
    {%- endif %}

),
{% if is_incremental() %}
touched as (

    select
        token_id,
        {{ to_start_of_bucket }}(filled_at) as bucket_at,
        filled_at,
        toUInt128(0) as position,
        0. as price,
        usd,
        shares,
        version,
        0 as is_live
    from {{ ref('trades_store') }}
    where {{ written_by_this_settle('filled_at') }}
    union all
    select
        token_id,
        bucket_at,
        bucket_at as filled_at,
        toUInt128(0) as position,
        0. as price,
        volume_usd as usd,
        volume_shares as shares,
        (select version from settling) as version,
        0 as is_live
    from {{ this }}
    where {{ rebuilt }}

),
{% endif %}
prints as (

    select * from trades
    {%- if is_incremental() %}
    union all
    select * from touched
    {%- endif %}

)

select
    token_id,
    bucket_at,
    argMinIf(price, (filled_at, position), is_live) as open,
    maxIf(price, is_live) as high,
    minIf(price, is_live) as low,
    argMaxIf(price, (filled_at, position), is_live) as close,
    sumIf(usd, is_live) as volume_usd,
    sumIf(shares, is_live) as volume_shares,
    countIf(is_live) as trades,
    {%- if positions %}
    minIf(filled_at, is_live) as first_trade_at,
    argMinIf(position, (filled_at, position), is_live) as first_position,
    argMaxIf(position, (filled_at, position), is_live) as last_position,
    {%- endif %}
    maxIf(filled_at, is_live) as last_trade_at,
    max(version) as version,
    toUInt8(countIf(is_live) = 0) as is_deleted
from prints
group by token_id, bucket_at
{% endmacro %}

{#- What users read: one row per token and bucket. -#}
{% macro candles_view(store) %}
select
    token_id,
    bucket_at,
    open,
    high,
    low,
    close,
    toFloat64(volume_usd) / toFloat64(volume_shares) as vwap,
    volume_usd,
    volume_shares,
    trades,
    last_trade_at
from {{ store }}
{% endmacro %}

{#-
    Candles with the buckets between them, which carry the close before them. Every candle is in, whenever it is. What is
    made up ends with the bucket of the newest trade of all tokens, so a token that nobody trades any more still has a
    price; in a closed market it ends with the bucket in which it closed, because a price after the resolution would be
    false. Trades may be mined later than that: their candles stand alone, with nothing between them. A closed market of
    which nobody says when it closed is filled up to its last candle.
    A candle from before Polygon started can only come from a false time. Filling from it would make hundreds of millions
    of rows, so nothing is.
-#}
{% macro candles_filled(candles, to_start_of_bucket, bucket_seconds) %}
with newest as (

    select {{ to_start_of_bucket }}(max(priced_at)) as bucket_at
    from {{ ref('market_latest_price') }}

),

closed_tokens as (

    select
        tokens.token_id as token_id,
        {{ to_start_of_bucket }}(toDateTime(markets.closed_at, 'UTC')) as closed_bucket_at
    from {{ ref('outcome_tokens') }} as tokens
    inner all join {{ ref('markets') }} as markets on tokens.market_id = markets.market_id
    where markets.closed

),

spans as (

    select
        candles.token_id as token_id,
        candles.bucket_at as bucket_at,
        candles.open as open,
        candles.high as high,
        candles.low as low,
        candles.close as close,
        candles.vwap as vwap,
        candles.volume_usd as volume_usd,
        candles.volume_shares as volume_shares,
        candles.trades as trades,
        coalesce(closed_tokens.token_id, '') != '' as is_closed,
        closed_tokens.closed_bucket_at as closed_bucket_at,
        leadInFrame(candles.bucket_at) over (
            partition by candles.token_id
            order by candles.bucket_at
            rows between current row and unbounded following
        ) as following_bucket_at,
        following_bucket_at <= candles.bucket_at as is_last,
        if(is_last, (select bucket_at from newest) + {{ bucket_seconds }}, following_bucket_at) as next_bucket_at,
        multiIf(
            candles.bucket_at < {{ polygon_start_at() }}, candles.bucket_at,
            not is_closed, next_bucket_at,
            closed_bucket_at is not null, least(next_bucket_at, closed_bucket_at + {{ bucket_seconds }}),
            is_last, candles.bucket_at,
            next_bucket_at
        ) as filled_until,
        intDiv(dateDiff('second', candles.bucket_at, assumeNotNull(filled_until)), {{ bucket_seconds }}) as buckets
    from {{ candles }} as candles
    left any join closed_tokens on candles.token_id = closed_tokens.token_id

)

-- Each candle, and as many buckets after it as carry its close.
select
    spans.token_id as token_id,
    spans.bucket_at + offset * {{ bucket_seconds }} as bucket_at,
    if(is_filled, spans.close, spans.open) as open,
    if(is_filled, spans.close, spans.high) as high,
    if(is_filled, spans.close, spans.low) as low,
    spans.close as close,
    if(is_filled, null, spans.vwap) as vwap,
    if(is_filled, toDecimal128(0, 6), spans.volume_usd) as volume_usd,
    if(is_filled, toDecimal128(0, 6), spans.volume_shares) as volume_shares,
    if(is_filled, 0, spans.trades) as trades,
    toBool(offset > 0) as is_filled
from spans
array join range(toUInt32(greatest(spans.buckets, 1))) as offset
{% endmacro %}

{#- The day on which Polygon's main network started, which no block precedes. -#}
{% macro polygon_start_at() -%}
    toDateTime('2020-05-30 00:00:00', 'UTC')
{%- endmacro %}
