with of_tokens as (

    select
        day,
        (sum(volume_usd), sum(volume_shares), sum(trades)) as sums
    from {{ ref('volume_daily') }}
    where token_id in (select token_id from {{ ref('outcome_tokens') }})
    group by day

),

of_markets as (

    select
        day,
        (sum(volume_usd), sum(volume_shares), sum(trades)) as sums
    from {{ ref('market_volume_daily') }}
    group by day

)

select
    day,
    of_tokens.sums as usd_shares_trades_of_tokens,
    of_markets.sums as usd_shares_trades_of_markets
from of_tokens
full outer join of_markets using (day)
where of_tokens.sums != of_markets.sums
