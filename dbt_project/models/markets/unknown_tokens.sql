with unknown as (

    select
        token_id,
        first_traded_at
    from {{ ref('traded_tokens_store') }}
    where not is_deleted and token_id not in (select token_id from {{ ref('outcome_tokens') }})

),

-- From the first trade of the oldest of them on, because trades are sorted by time. Rows of the store that a later one
-- replaces may still be there: they only make the range longer.
tokens as (

    select
        token_id,
        {{ position_id('token_id', 'max(contract_version)') }} as position_id,
        count() as trades,
        sum(usd) as volume_usd,
        min(filled_at) as first_traded_at,
        max(filled_at) as last_traded_at
    from {{ ref('int_trades_deduplicated') }}
    where
        filled_at >= (select min(first_traded_at) from unknown)
        and token_id in (select token_id from unknown)
    group by token_id

)

select
    token_id,
    {{ position_module('position_id') }} as module,
    trades,
    volume_usd,
    first_traded_at,
    last_traded_at
from tokens
