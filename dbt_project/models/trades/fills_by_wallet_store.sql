-- depends_on: {{ ref('trades_store') }}
-- depends_on: {{ ref('order_fills_store') }}
{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        tags=['settle_order_filled'],
        engine=replacing('version, is_deleted'),
        order_by=['wallet', 'filled_at', 'tx_hash', 'log_index', 'order_hash', 'is_operator'],
        settings={'index_granularity': 1024},
    )
}}
{%- set is_touched = in_touched_seconds('filled_at', ref('order_fills_store')) -%}
{%- set columns = 'wallet, filled_at, tx_hash, log_index, order_hash, is_operator, role, block_number, contract_version, exchange,'
    ~ ' side, token_id, shares, usd, price, fee, fee_asset, is_dust' %}
with
{{ settling() }}

standing as (

    select
        * except (fill_id, fee_usd, shares_change, usd_change),
        cast(role = 'operator' as Bool) as is_operator,
        {{ new_version() }} as version,
        0 as is_deleted
    from {{ ref('int_wallet_fills') }}
    {%- if is_incremental() %}
    where {{ is_touched }}
    {%- elif not is_production() %}
    where {{ in_dev_days('filled_at') }}
    {%- endif %}

)
{%- if is_incremental() %},

-- Fills whose block left the chain. Without FINAL, which would leave them out.
withdrawn_fills as (

    select
        *,
        maker as wallet,
        leg as role,
        false as is_operator
    from {{ ref('order_fills_store') }} as fills
    where fills.is_deleted and {{ is_touched }}

),

-- Direct fills that are none any more: the operator's side of them.
withdrawn_operators as (

    select
        * except (wallet),
        counterparty as wallet,
        'operator' as role,
        true as is_operator
    from {{ ref('trades_store') }} as trades
    where trades.is_deleted and trades.match_type = 'direct' and {{ is_touched }}

),

standing_or_withdrawn as (

    select
        {{ columns }},
        version,
        is_deleted
    from standing
    {%- for withdrawn in ('withdrawn_fills', 'withdrawn_operators') %}
    union all
    select
        {{ columns }},
        {{ withdrawal_version() }} as version,
        1 as is_deleted
    from {{ withdrawn }}
    {%- endfor %}
    union all
    -- A rebuild withdraws what only this store has.
    select
        {{ columns }},
        {{ withdrawal_version() }} as version,
        1 as is_deleted
    from {{ this }}
    where {{ in_rebuilt_range('filled_at') }}

)

select * from standing_or_withdrawn
{%- else %}

select
    {{ columns }},
    version,
    is_deleted
from standing
{%- endif %}
