{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        tags=['settle_events'],
        engine=replacing('fetched_at'),
        order_by='event_id',
    )
}}
{{ not_yet_stored(ref('stg_polymarket__events'), 'events', 'event_id') }}
