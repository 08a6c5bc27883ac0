{#-
    Candles of one bucket length from trades. Incrementally: the buckets that the trades written by this settle fall
    into (withdrawn ones included) are computed again from all their trades, and a bucket left without any is
    withdrawn. Whole buckets at both ends, or a load that ends in the middle of one would cut it off.
    Dust is left out. With `positions`, a candle also says where its first and last trade stand, so that candles of
    several tokens can be put together in the order of execution.
-#}
{% macro candles_from_trades(to_start_of_bucket, positions=false) %}
{%- set rebuilt = in_rebuilt_range('bucket_at', to_start_of_bucket ~ '(' ~ settle_from() ~ ')') -%}
with trades as (

    select
        token_id,
        {{ to_start_of_bucket }}(filled_at) as bucket_at,
        filled_at,
        {{ execution_position() }} as position,
        toFloat64(price) as price,
        usd,
        shares,
        toUInt64(0) as version,
        1 as is_live
    from {{ ref('int_trades_deduplicated') }}
    where not is_dust
    {%- if is_incremental() %}
        and filled_at >= {{ to_start_of_bucket }}({{ settle_from() }})
        and {{ to_start_of_bucket }}(filled_at) <= {{ settle_to() }}
        and (token_id, {{ to_start_of_bucket }}(filled_at)) in (
            select
                token_id,
                {{ to_start_of_bucket }}(filled_at)
            from {{ ref('trades_store') }}
            where filled_at between {{ settle_from() }} and {{ settle_to() }} and version = {{ settle_id() }}
            union distinct
            select
                token_id,
                bucket_at
            from {{ this }}
            where {{ rebuilt }}
        )
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
    where filled_at between {{ settle_from() }} and {{ settle_to() }} and version = {{ settle_id() }}
    union all
    select
        token_id,
        bucket_at,
        bucket_at as filled_at,
        toUInt128(0) as position,
        0. as price,
        volume_usd as usd,
        volume_shares as shares,
        {{ settle_id() }} as version,
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
    Candles with the buckets between them, which carry the close before them. The last bucket is that of the newest trade
    of all tokens, so a token that nobody trades any more still has a price; a closed market ends with the bucket in which
    it closed, because a price after the resolution would be made up.
-#}
{% macro candles_filled(candles, to_start_of_bucket, bucket_seconds) %}
with newest as (

    select {{ to_start_of_bucket }}(max(priced_at)) as bucket_at
    from {{ ref('market_latest_price') }}

),

closed_tokens as (

    select
        tokens.token_id as token_id,
        markets.closed_at as closed_at
    from {{ ref('outcome_tokens') }} as tokens
    inner join {{ ref('markets') }} as markets on tokens.market_id = markets.market_id
    where markets.closed

),

ends as (

    select
        candles.*,
        closed_tokens.token_id != '' as is_closed,
        {{ to_start_of_bucket }}(closed_tokens.closed_at) as closed_bucket_at,
        leadInFrame(candles.bucket_at) over (
            partition by candles.token_id
            order by candles.bucket_at
            rows between current row and unbounded following
        ) as next_bucket_at,
        multiIf(
            next_bucket_at > candles.bucket_at, next_bucket_at,
            is_closed and closed_bucket_at is null, candles.bucket_at + {{ bucket_seconds }},
            (select bucket_at from newest) + {{ bucket_seconds }}
        ) as bucket_before
    from {{ candles }} as candles
    left any join closed_tokens on candles.token_id = closed_tokens.token_id

)

select
    token_id,
    ends.bucket_at + offset * {{ bucket_seconds }} as bucket_at,
    if(is_filled, ends.close, ends.open) as open,
    if(is_filled, ends.close, ends.high) as high,
    if(is_filled, ends.close, ends.low) as low,
    ends.close as close,
    if(is_filled, null, ends.vwap) as vwap,
    if(is_filled, toDecimal128(0, 6), ends.volume_usd) as volume_usd,
    if(is_filled, toDecimal128(0, 6), ends.volume_shares) as volume_shares,
    if(is_filled, 0, ends.trades) as trades,
    toBool(offset > 0) as is_filled
from ends
array join range(toUInt32(intDiv(dateDiff('second', ends.bucket_at, bucket_before), {{ bucket_seconds }}))) as offset
where not is_closed or closed_bucket_at is null or ends.bucket_at + offset * {{ bucket_seconds }} <= closed_bucket_at
{% endmacro %}
