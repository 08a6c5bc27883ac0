-- depends_on: {{ ref('trades_store') }}
{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        tags=['settle_order_filled'],
        engine=replacing('version, is_deleted'),
        order_by=['token_id', 'filled_at', 'tx_hash', 'log_index', 'order_hash'],
        settings={'index_granularity': 1024},
    )
}}
{%- set columns = 'token_id, filled_at, tx_hash, log_index, order_hash, block_number, contract_version, exchange, wallet, side,'
    ~ ' match_type, maker_legs, maker_shares, maker_usd, maker_fee_usd, shares, usd, price, fee, fee_asset, is_dust' %}
with
{{ settling() }}

trades as (

    {% if is_incremental() -%}
    -- What this settle wrote or withdrew.
    select
        {{ columns }},
        version,
        is_deleted
    from {{ ref('trades_store') }}
    where {{ written_by_this_settle('filled_at') }}
    union all
    -- A rebuild withdraws what only this store has.
    select
        {{ columns }},
        {{ withdrawal_version() }} as version,
        1 as is_deleted
    from {{ this }}
    where {{ in_rebuilt_range('filled_at') }}
    {%- else -%}
    select
        {{ columns }},
        {{ refresh_id() }} as version,
        0 as is_deleted
    from {{ ref('int_trades_deduplicated') }}
    {%- if not is_production() %}
    where {{ in_dev_days('filled_at') }}
    {%- endif %}
    {%- endif %}

)

select * from trades
