with legs as (

    select
        toDate(filled_at) as day,
        (count(), sum(shares), sum(usd), sumIf(fee_usd, leg = 'maker')) as sums
    from {{ ref('trade_legs') }}
    where leg != 'taker' and {{ in_conservation_days('filled_at') }}
    group by day

),

trades as (

    select
        toDate(filled_at) as day,
        (sum(maker_legs), sum(maker_shares), sum(maker_usd), sum(maker_fee_usd)) as sums
    from {{ ref('trades') }}
    where {{ in_conservation_days('filled_at') }}
    group by day

)

select
    day,
    legs.sums as legs_shares_usd_fees_of_legs,
    trades.sums as legs_shares_usd_fees_of_trades
from legs
full outer join trades using (day)
where legs.sums != trades.sums
