{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        tags=['settle_markets'],
        engine=replacing('fetched_at'),
        order_by='token_id',
    )
}}
{{ not_yet_stored('(' ~ outcome_tokens_from_payload() ~ ')', 'markets', 'token_id') }}
