with tokens as (

    select
        token_id,
        market_id,
        count() over (partition by market_id) as outcomes
    from {{ ref('outcome_tokens') }}

),

two_outcome_tokens as (

    select * from tokens
    where outcomes = 2

),

of_tokens as (

    select
        toDate(hours.bucket_at) as day,
        (sum(hours.volume_usd), sum(hours.volume_shares), sum(hours.trades)) as sums
    from {{ ref('ohlcv_1h') }} as hours
    inner join two_outcome_tokens as tokens on hours.token_id = tokens.token_id
    where {{ in_conservation_days('hours.bucket_at') }}
    group by day

),

of_markets as (

    select
        toDate(bucket_at) as day,
        (sum(volume_usd), sum(volume_shares), sum(trades)) as sums
    from {{ ref('market_ohlcv_1h') }}
    where
        market_id in (select market_id from two_outcome_tokens)
        and {{ in_conservation_days('bucket_at') }}
    group by day

)

select
    day,
    of_tokens.sums as usd_shares_trades_of_tokens,
    of_markets.sums as usd_shares_trades_of_markets
from of_tokens
full outer join of_markets using (day)
where of_tokens.sums != of_markets.sums
