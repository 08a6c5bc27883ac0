with tokens as (

    select
        token_id,
        min(filled_at) as first_filled_at,
        max(filled_at) as last_filled_at
    from {{ ref('int_order_fills_deduplicated') }}
    where contract_version = 'v3'
    group by token_id

),

positions as (

    select
        *,
        {{ position_id('token_id', "'v3'") }} as position_id
    from tokens

)

select
    ---------- ids
    token_id,
    {{ position_condition_id('position_id') }} as condition_id,
    {{ position_event_id('position_id') }} as event_id,

    ---------- what it stands for
    {{ position_module('position_id') }} as module,
    {{ position_condition_index('position_id') }} as condition_index,
    {{ position_outcome_index('position_id') }} as outcome_index,
    transform({{ position_outcome_index('position_id') }}, [0, 1], ['YES', 'NO'], '') as outcome,

    ---------- times
    first_filled_at,
    last_filled_at
from positions
