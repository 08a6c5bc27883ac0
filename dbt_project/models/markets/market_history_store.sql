{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        tags=['settle_markets'],
        engine=replacing('load_id'),
        order_by=['market_id', 'fetched_at'],
    )
}}
{{ not_yet_stored('(' ~ market_versions(ref('stg_polymarket__markets')) ~ ')', 'markets', 'market_id') }}
