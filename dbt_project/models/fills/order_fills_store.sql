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
{%- set touched = touched_transactions(this) -%}
{%- set key = '(filled_at, tx_hash, log_index, order_hash)' -%}
{%- set columns = 'filled_at, block_number, log_index, tx_hash, order_hash, contract_version, exchange, maker, taker, leg, side,'
    ~ ' token_id, shares, usd, price, fee, fee_asset, is_dust' -%}
{%- set content = '(filled_at, tx_hash, log_index, order_hash, cityHash64(' ~ columns ~ '))' -%}
{%- set range = 'filled_at between ' ~ settle_from() ~ ' and ' ~ settle_to() -%}
with fills as (

    select * except (is_deleted)
    from {{ ref('stg_polymarket__order_filled') }}
    {%- if is_incremental() %}
    where {{ range }} and (filled_at, tx_hash) in {{ touched }}
    {%- endif %}

),

-- A maker leg names the owner of the taker order as its taker, and precedes that order's own leg.
legs as (

    select
        *,
        groupArrayIf((maker, log_index), leg = 'taker') over (partition by filled_at, tx_hash) as taker_legs
    from fills

),

expected as (

    select
        * except (taker_legs, leg),
        toLowCardinality(
            multiIf(
                legs.leg = 'taker', 'taker',
                arrayExists(t -> t.1 = taker and (t.2 > log_index or t.2 = 0), taker_legs), 'maker',
                'direct'
            )
        ) as leg
    from legs

)
{% if is_incremental() %}
,

-- What the materialized view has not written, or could not know.
missing_or_changed as (

    select
        {{ columns }},
        {{ settle_id() }} as version,
        0 as is_deleted
    from expected
    where {{ content }} not in (
        select {{ content }}
        from {{ this }} final
        where {{ range }}
    )

),

-- What raw no longer holds: blocks that left the chain.
withdrawn as (

    select
        {{ columns }},
        {{ settle_id() }} as version,
        1 as is_deleted
    from {{ this }} final
    where
        {{ range }}
        and (filled_at, tx_hash) in {{ touched }}
        and {{ key }} not in (select {{ key }} from expected)

)

select * from missing_or_changed
union all
select * from withdrawn
{% else %}
select
    {{ columns }},
    load_id as version,
    0 as is_deleted
from expected
{% endif %}
