-- depends_on: {{ ref('ohlcv_1h_store') }}
{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        tags=['settle_order_filled'],
        engine=replacing('version, is_deleted'),
        order_by=['token_id', 'bucket_at'],
        partition_by='toYYYYMM(bucket_at)',
        settings={'index_granularity': 1024},
        indexes=[{'name': 'ix_version', 'definition': 'version type minmax granularity 1'}],
    )
}}
{%- set touched_hours -%}
    {{ written_by_this_settle('bucket_at', 'toStartOfHour((select from_at from settling))') }}
{%- endset %}
{%- set rebuilt = in_rebuilt_range('bucket_at', 'toStartOfDay((select from_at from settling))') %}
with
{{ settling() }}

hours as (

    select
        token_id,
        bucket_at as hour_at,
        open,
        high,
        low,
        close,
        volume_usd,
        volume_shares,
        trades,
        last_trade_at,
        {{ live_version() }} as version,
        1 as is_live
    from {{ ref('int_ohlcv_1h_deduplicated') }}
    {%- if is_incremental() %}
    where
        bucket_at >= toStartOfDay((select from_at from settling))
        and toStartOfDay(bucket_at) <= (select to_at from settling)
        and (toStartOfDay(bucket_at), token_id) in (
            select
                toStartOfDay(bucket_at) as day_at,
                token_id
            from {{ ref('ohlcv_1h_store') }}
            where {{ touched_hours }}
            union distinct
            select
                bucket_at as day_at,
                token_id
            from {{ this }}
            where {{ rebuilt }}
        )
    {%- elif not is_production() %}
    where {{ in_dev_days('bucket_at') }}
    {%- endif %}

),
{% if is_incremental() %}
-- Hours that this settle wrote or withdrew: they touch a day even where none of its hours is left.
touched as (

    select
        token_id,
        bucket_at as hour_at,
        open,
        high,
        low,
        close,
        volume_usd,
        volume_shares,
        trades,
        last_trade_at,
        version,
        0 as is_live
    from {{ ref('ohlcv_1h_store') }}
    where {{ touched_hours }}
    union all
    select
        token_id,
        bucket_at as hour_at,
        open,
        high,
        low,
        close,
        volume_usd,
        volume_shares,
        trades,
        last_trade_at,
        (select version from settling) as version,
        0 as is_live
    from {{ this }}
    where {{ rebuilt }}

),
{% endif %}
candles as (

    select * from hours
    {%- if is_incremental() %}
    union all
    select * from touched
    {%- endif %}

)

select
    token_id,
    toStartOfDay(hour_at) as bucket_at,
    argMinIf(candles.open, hour_at, is_live) as open,
    maxIf(candles.high, is_live) as high,
    minIf(candles.low, is_live) as low,
    argMaxIf(candles.close, hour_at, is_live) as close,
    sumIf(candles.volume_usd, is_live) as volume_usd,
    sumIf(candles.volume_shares, is_live) as volume_shares,
    sumIf(candles.trades, is_live) as trades,
    maxIf(candles.last_trade_at, is_live) as last_trade_at,
    max(candles.version) as version,
    toUInt8(countIf(is_live) = 0) as is_deleted
from candles
group by token_id, bucket_at
