select
    token_id,
    observed_at,
    bid,
    ask,
    mid,
    spread
from {{ ref('stg_polymarket__market_prices') }}
