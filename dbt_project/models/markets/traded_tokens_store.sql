{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        tags=['settle_order_filled'],
        engine=replacing('version, is_deleted'),
        order_by='token_id',
    )
}}
with
{{ settling() }}

touched as (

    select
        token_id,
        min(filled_at) as first_traded_at,
        max(is_deleted) as has_lost
    from {{ ref('trades_store') }}
    {%- if is_incremental() %}
    where {{ written_by_this_settle('filled_at') }}
    {%- endif %}
    group by token_id

),

-- A token that lost a trade is looked up again in all that stand; for any other the earlier of what came and what is
-- stored counts.
times as (

    select
        token_id,
        first_traded_at as traded_at,
        not has_lost as is_live
    from touched
    {%- if is_incremental() %}
    union all
    select
        token_id,
        first_traded_at as traded_at,
        1 as is_live
    from {{ this }} final
    where token_id in (
        select token_id
        from touched
        where not has_lost
    )
    {%- endif %}
    union all
    select
        token_id,
        filled_at as traded_at,
        1 as is_live
    from {{ ref('int_trades_deduplicated') }}
    where token_id in (
        select token_id
        from touched
        where has_lost
    )

)

select
    token_id,
    minIf(traded_at, is_live) as first_traded_at,
    {{ new_version() }} as version,
    toUInt8(countIf(is_live) = 0) as is_deleted
from times
group by token_id
