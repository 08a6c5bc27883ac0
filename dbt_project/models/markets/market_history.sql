-- Partitioned by market_id alone, so that a filter on it reaches the primary key of the store.
with compared as (

    select
        *,
        -- As text, because a comparison with null is neither true nor false.
        (
            question, active, closed, outcome_prices, toString((volume_usd, liquidity_usd)), uma_resolution_status, resolution
        ) as fields,
        lagInFrame(fields) over previous as fields_before,
        row_number() over previous = 1 as is_first
    from {{ ref('int_market_versions_deduplicated') }}
    window previous as (partition by market_id order by fetched_at rows between unbounded preceding and current row)

),

changes as (

    select * from compared
    where is_first or fields != fields_before

)

select
    market_id,
    fetched_at as valid_from,
    leadInFrame(toNullable(fetched_at)) over following as valid_to,
    toBool(valid_to is null) as is_current,
    question,
    active,
    closed,
    {{ prices_from_texts('outcome_prices') }} as outcome_prices,
    volume_usd,
    liquidity_usd,
    uma_resolution_status,
    resolution
from changes
window following as (partition by market_id order by fetched_at rows between current row and unbounded following)
