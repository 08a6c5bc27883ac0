-- depends_on: {{ ref('order_fills_store') }}
{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        tags=['settle_order_filled'],
        engine=replacing('version, is_deleted'),
        order_by=['tx_key', 'filled_at'],
        settings={'index_granularity': 1024},
    )
}}
{%- set is_touched = in_touched_seconds('filled_at', ref('order_fills_store')) %}
with
{{ settling() }}

transactions as (

    select
        cityHash64(tx_hash) as tx_key,
        filled_at,
        {{ new_version() }} as version,
        0 as is_deleted
    from {{ ref('int_order_fills_deduplicated') }}
    {%- if is_incremental() %}
    where {{ is_touched }}
    union all
    -- Transactions whose block left the chain. Without FINAL, which would leave them out.
    select
        cityHash64(fills.tx_hash) as tx_key,
        fills.filled_at as filled_at,
        (select version from settling) as version,
        1 as is_deleted
    from {{ ref('order_fills_store') }} as fills
    where fills.is_deleted and {{ is_touched }}
    union all
    -- A rebuild withdraws what only this store has.
    select
        tx_key,
        filled_at,
        (select version from settling) as version,
        1 as is_deleted
    from {{ this }}
    where {{ in_rebuilt_range('filled_at') }}
    {%- elif not is_production() %}
    where {{ in_dev_days('filled_at') }}
    {%- endif %}

)

select
    tx_key,
    filled_at,
    max(version) as version,
    min(is_deleted) as is_deleted
from transactions
group by tx_key, filled_at
