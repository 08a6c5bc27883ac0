-- depends_on: {{ ref('trades_store') }}
{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        tags=['settle_order_filled'],
        engine=replacing('version, is_deleted'),
        order_by=['toStartOfDay(bucket_at)', 'token_id', 'bucket_at'],
        partition_by='toYYYYMM(bucket_at)',
        settings={'index_granularity': 1024},
        indexes=[{'name': 'ix_version', 'definition': 'version type minmax granularity 1'}],
    )
}}
{{ candles_from_trades('toStartOfHour', positions=true) }}
