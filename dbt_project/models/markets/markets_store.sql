{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        tags=['settle_markets'],
        engine=replacing('fetched_at'),
        order_by='market_id',
    )
}}
{{ not_yet_stored(ref('stg_polymarket__markets'), 'markets', 'market_id') }}
