{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        tags=['settle_order_filled'],
        engine=replacing('version, is_deleted'),
        order_by=['filled_at', 'tx_hash', 'log_index', 'order_hash'],
        partition_by='toYYYYMM(filled_at)',
        indexes=[
            {'name': 'ix_version', 'definition': 'version type minmax granularity 1'},
            {'name': 'ix_token', 'definition': 'token_id type bloom_filter(0.01) granularity 1'},
            {'name': 'ix_wallet', 'definition': 'wallet type bloom_filter(0.01) granularity 1'},
        ],
    )
}}
{%- set is_touched = in_touched_seconds('filled_at', this) -%}
{%- set columns = 'filled_at, tx_hash, log_index, order_hash, block_number, contract_version, exchange, wallet, counterparty, side,'
    ~ ' token_id, match_type, maker_legs, maker_shares, maker_usd, maker_fee_usd, shares, usd, price, fee, fee_asset, is_dust' -%}
{%- set leg_columns = 'log_index, order_hash, block_number, contract_version, exchange, maker, taker, leg, side, token_id,'
    ~ ' shares, usd, price, fee, fee_asset, is_dust' %}
with
{{ settling() }}

transactions as (

    select
        filled_at,
        tx_hash,
        arraySort(groupArrayIf(({{ leg_columns }}), leg = 'taker')) as taker_legs,
        groupArrayIf((log_index, taker, side, token_id, shares, usd, fee_usd), leg = 'maker') as maker_legs,
        groupArrayIf(({{ leg_columns }}), leg = 'direct') as direct_fills
    from {{ ref('int_order_fills_deduplicated') }}
    {%- if is_incremental() %}
    where {{ is_touched }}
    {%- elif not is_production() %}
    where {{ in_dev_days('filled_at') }}
    {%- endif %}
    group by filled_at, tx_hash
    settings
        enable_named_columns_in_function_tuple = 1{{ ', optimize_aggregation_in_order = 1' if not is_incremental() }}

),

-- One row per taker order executed, or per fill that had none.
orders as (

    select
        filled_at,
        tx_hash,
        own.log_index as log_index,
        own.order_hash as order_hash,
        own.block_number as block_number,
        toLowCardinality(own.contract_version) as contract_version,
        toLowCardinality(own.exchange) as exchange,
        own.maker as wallet,
        if(own.leg = 'direct', own.taker, '') as counterparty,
        toLowCardinality(own.side) as side,
        toLowCardinality(own.token_id) as token_id,
        own.shares as shares,
        own.usd as usd,
        own.price as price,
        own.fee as fee,
        toLowCardinality(own.fee_asset) as fee_asset,
        own.is_dust as is_dust,
        own.leg = 'direct' as is_direct,
        -- The maker legs of this order stand between the wallet's order before it and its own leg, where positions are known.
        arrayMax(arrayMap(other -> if(other.maker = wallet and other.log_index < log_index, other.log_index, 0), taker_legs))
            as previous_log_index,
        arrayFilter(
            other -> other.taker = wallet
            and (log_index = 0 or (other.log_index >= previous_log_index and other.log_index < log_index)),
            maker_legs
        ) as makers
    from transactions
    array join arrayConcat(taker_legs, direct_fills) as own

),

trades as (

    select
        filled_at,
        tx_hash,
        log_index,
        order_hash,
        block_number,
        contract_version,
        exchange,
        wallet,
        counterparty,
        side,
        token_id,
        toLowCardinality(multiIf(
            is_direct, 'direct',
            empty(makers), 'mixed',
            arrayAll(maker -> maker.token_id = token_id and maker.side != side, makers), 'complementary',
            arrayAll(maker -> maker.token_id != token_id and maker.side = 'BUY' and side = 'BUY', makers), 'mint',
            arrayAll(maker -> maker.token_id != token_id and maker.side = 'SELL' and side = 'SELL', makers), 'merge',
            'mixed'
        )) as match_type,
        toUInt16(if(is_direct, 1, length(makers))) as maker_legs,
        if(is_direct, shares, arraySum(maker -> maker.shares, makers)) as maker_shares,
        if(is_direct, usd, arraySum(maker -> maker.usd, makers)) as maker_usd,
        arraySum(maker -> maker.fee_usd, makers) as maker_fee_usd,
        shares,
        usd,
        price,
        fee,
        fee_asset,
        is_dust,
        {{ new_version() }} as version,
        0 as is_deleted
    from orders

)
{% if is_incremental() %}
,

-- Trades of these transactions that stand no longer: a fill that looked direct until its taker leg came, or a block
-- that left the chain. A trade that is computed again wins over its withdrawal. Without FINAL, so that a settle that
-- was cut off after this statement withdraws them again and their candles are still found to be touched.
withdrawn as (

    select
        {{ columns }},
        (select version from settling) as version,
        1 as is_deleted
    from {{ this }}
    where {{ is_touched }}

),

computed_or_withdrawn as (

    select * from trades
    union all
    select * from withdrawn

)

select * from computed_or_withdrawn
order by is_deleted
limit 1 by filled_at, tx_hash, log_index, order_hash
{% else %}
select * from trades
{% endif %}
