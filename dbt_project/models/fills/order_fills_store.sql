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
            {'name': 'ix_maker', 'definition': 'maker type bloom_filter(0.01) granularity 1'},
            {'name': 'ix_taker', 'definition': 'taker type bloom_filter(0.01) granularity 1'},
        ],
    )
}}
{%- set columns = 'filled_at, block_number, log_index, tx_hash, order_hash, contract_version, exchange, maker, taker, leg, side,'
    ~ ' token_id, shares, usd, price, fee, fee_asset, is_dust' -%}
{#- Of the legs the materialized view knows only which are taker legs. -#}
{%- set content = 'toInt64(cityHash64(' ~ columns | replace(' leg,', " leg = 'taker',") ~ '))' -%}
{%- set is_touched = in_touched_seconds('filled_at', this) %}
with
{{ settling() }}

fills as (

    select
        {{ columns }},
        load_id as version,
        0 as is_deleted
    from {{ ref('stg_polymarket__order_filled') }}
    {%- if is_incremental() %}
    where {{ is_touched }}
    union all
    -- What only the store holds has left raw: blocks that left the chain.
    select
        {{ columns }},
        version,
        1 as is_deleted
    from {{ this }} final
    where {{ is_touched }}
    {%- elif not is_production() %}
    where {{ in_dev_days('filled_at') }}
    {%- endif %}

),
{% if is_incremental() %}
in_raw as (

    select
        filled_at,
        tx_hash,
        sum({{ content }}) as content
    from {{ ref('stg_polymarket__order_filled') }}
    where {{ is_touched }}
    group by filled_at, tx_hash

),

in_store as (

    select
        filled_at,
        tx_hash,
        sum({{ content }}) as content,
        groupArrayIf((cityHash64(maker), log_index), leg = 'taker') as taker_legs,
        groupArrayIf((cityHash64(taker), log_index, leg = 'maker'), leg != 'taker') as other_legs,
        arrayExists(other -> other.3 != {{ is_of_taker_order('other.1', 'other.2') }}, other_legs) as has_wrong_leg
    from {{ this }} final
    where {{ is_touched }}
    group by filled_at, tx_hash

),

both as (

    select
        filled_at,
        tx_hash,
        content,
        false as has_wrong_leg
    from in_raw
    union all
    select
        filled_at,
        tx_hash,
        -content as content,
        has_wrong_leg
    from in_store

),

-- Transactions that are not the same in raw and store, or have a leg that the others belie: almost none, because the
-- materialized view has written them.
differing as (

    select
        filled_at,
        tx_hash
    from both
    group by filled_at, tx_hash
    having sum(content) != 0 or max(has_wrong_leg)

),
{% endif %}
legs as (

    select
        *,
        groupArrayIf((maker, log_index), leg = 'taker' and not is_deleted) over (partition by filled_at, tx_hash)
            as taker_legs
    from fills
    {%- if is_incremental() %}
    where (filled_at, tx_hash) in (
        select
            filled_at,
            tx_hash
        from differing
    )
    {%- endif %}

),

expected as (

    select
        * except (taker_legs, leg, version),
        toLowCardinality(
            multiIf(
                legs.leg = 'taker', 'taker',
                {{ is_of_taker_order('taker', 'log_index') }}, 'maker',
                'direct'
            )
        ) as leg,
        {{ new_version() }} as version
    from legs

)

select
    {{ columns }},
    version,
    is_deleted
from expected
{%- if is_incremental() %}
order by is_deleted
limit 1 by filled_at, tx_hash, log_index, order_hash
{%- endif %}
