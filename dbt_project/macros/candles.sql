{#-
    Candles of one bucket length from trades. Incrementally: the buckets that the trades written by this settle fall
    into (withdrawn ones included) are computed again from all their trades, and a bucket left without any is
    withdrawn. Whole buckets at both ends, or a load that ends in the middle of one would cut it off.
    Dust is left out. Trades are ordered by block and log index, then by hash where the archive does not say them.
-#}
{% macro candles_from_trades(to_start_of_bucket) %}
with trades as (

    select
        token_id,
        {{ to_start_of_bucket }}(filled_at) as bucket_at,
        filled_at,
        (filled_at, block_number, log_index, tx_hash, order_hash) as position,
        toFloat64(price) as price,
        usd,
        shares,
        version,
        1 as is_live
    from {{ ref('trades_store') }} final
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
        )
    {%- endif %}

),
{% if is_incremental() %}
touched as (

    select
        token_id,
        {{ to_start_of_bucket }}(filled_at) as bucket_at,
        filled_at,
        (filled_at, block_number, log_index, tx_hash, order_hash) as position,
        0. as price,
        usd,
        shares,
        version,
        0 as is_live
    from {{ ref('trades_store') }}
    where filled_at between {{ settle_from() }} and {{ settle_to() }} and version = {{ settle_id() }}

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
    argMinIf(price, position, is_live) as open,
    maxIf(price, is_live) as high,
    minIf(price, is_live) as low,
    argMaxIf(price, position, is_live) as close,
    sumIf(usd, is_live) as volume_usd,
    sumIf(shares, is_live) as volume_shares,
    countIf(is_live) as trades,
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
from {{ store }} final
{% endmacro %}
