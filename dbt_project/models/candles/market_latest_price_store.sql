-- depends_on: {{ ref('ohlcv_1d_store') }}
{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        tags=['settle_order_filled'],
        engine=replacing('version, is_deleted'),
        order_by='token_id',
        indexes=[{'name': 'ix_version', 'definition': 'version type minmax granularity 1'}],
    )
}}
{%- set touched_days -%}
    {{ written_by_this_settle('bucket_at', 'toStartOfDay((select from_at from settling))') }}
{%- endset %}
{%- set rebuilt = in_rebuilt_range('priced_at') %}
-- The latest daily candle of a token closes at its last price; a token left without any candle loses its price.
with
{{ settling() }}

days as (

    select
        token_id,
        bucket_at,
        close,
        last_trade_at,
        {{ live_version() }} as version,
        1 as is_live
    from {{ ref('ohlcv_1d') }}
    {%- if is_incremental() %}
    where token_id in (
        select token_id
        from {{ ref('ohlcv_1d_store') }}
        where {{ touched_days }}
        union distinct
        select token_id
        from {{ this }}
        where {{ rebuilt }}
    )
    union all
    select
        token_id,
        bucket_at,
        close,
        last_trade_at,
        version,
        0 as is_live
    from {{ ref('ohlcv_1d_store') }}
    where {{ touched_days }}
    union all
    select
        token_id,
        toDateTime(priced_at, 'UTC') as bucket_at,
        price as close,
        priced_at as last_trade_at,
        (select version from settling) as version,
        0 as is_live
    from {{ this }}
    where {{ rebuilt }}
    {%- endif %}

)

select
    token_id,
    argMaxIf(close, bucket_at, is_live) as price,
    maxIf(last_trade_at, is_live) as priced_at,
    max(days.version) as version,
    toUInt8(countIf(is_live) = 0) as is_deleted
from days
group by token_id
