with volumes as (

    select * from {{ ref('volume_daily') }}

),

tokens as (

    select
        token_id,
        market_id
    from {{ ref('outcome_tokens') }}

)

select
    volumes.day as day,
    tokens.market_id as market_id,
    sum(volumes.volume_usd) as volume_usd,
    sum(volumes.volume_shares) as volume_shares,
    sum(volumes.trades) as trades
from volumes
inner all join tokens on volumes.token_id = tokens.token_id
group by day, market_id
