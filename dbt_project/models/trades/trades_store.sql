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
{%- set columns = 'filled_at, tx_hash, log_index, order_hash, block_number, contract_version, exchange, wallet, side, token_id,'
    ~ ' match_type, maker_legs, maker_shares, maker_usd, maker_fee_usd, shares, usd, price, fee, fee_asset, is_dust' -%}
{%- set leg_columns = 'log_index, order_hash, block_number, contract_version, exchange, maker, side, token_id, shares, usd, price, fee, fee_asset, is_dust' %}
with transactions as (

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
    {%- if not is_incremental() %}
    settings optimize_aggregation_in_order = 1
    {%- endif %}

),

-- One row per taker order executed, or per fill that had none.
orders as (

    select
        filled_at,
        tx_hash,
        leg.1 as log_index,
        leg.2 as order_hash,
        leg.3 as block_number,
        toLowCardinality(leg.4) as contract_version,
        toLowCardinality(leg.5) as exchange,
        leg.6 as wallet,
        toLowCardinality(leg.7) as side,
        toLowCardinality(leg.8) as token_id,
        leg.9 as shares,
        leg.10 as usd,
        leg.11 as price,
        leg.12 as fee,
        toLowCardinality(leg.13) as fee_asset,
        leg.14 as is_dust,
        leg.15 as is_direct,
        -- The maker legs of this order stand between the wallet's order before it and its own leg, where positions are known.
        arrayMax(arrayMap(t -> if(t.6 = wallet and t.1 < log_index, t.1, 0), taker_legs)) as previous_log_index,
        arrayFilter(m -> m.2 = wallet and (log_index = 0 or (m.1 >= previous_log_index and m.1 < log_index)), maker_legs)
            as makers
    from transactions
    array join
        arrayConcat(
            arrayMap(t -> tupleConcat(t, tuple(0)), taker_legs),
            arrayMap(t -> tupleConcat(t, tuple(1)), direct_fills)
        ) as leg

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
        side,
        token_id,
        toLowCardinality(multiIf(
            is_direct, 'direct',
            empty(makers), 'mixed',
            arrayAll(m -> m.4 = token_id and m.3 != side, makers), 'complementary',
            arrayAll(m -> m.4 != token_id and m.3 = 'BUY' and side = 'BUY', makers), 'mint',
            arrayAll(m -> m.4 != token_id and m.3 = 'SELL' and side = 'SELL', makers), 'merge',
            'mixed'
        )) as match_type,
        toUInt16(if(is_direct, 1, length(makers))) as maker_legs,
        if(is_direct, shares, arraySum(m -> m.5, makers)) as maker_shares,
        if(is_direct, usd, arraySum(m -> m.6, makers)) as maker_usd,
        arraySum(m -> m.7, makers) as maker_fee_usd,
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
        {{ settle_id() }} as version,
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
