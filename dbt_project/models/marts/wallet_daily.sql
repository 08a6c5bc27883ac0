with fills as (

    select * from {{ ref('int_wallet_fills') }}

)

select
    toDate(filled_at) as day,
    wallet,
    sumIf(fills.usd, not is_dust) as volume_usd,
    sumIf(fills.usd, side = 'BUY' and not is_dust) as buys_usd,
    sumIf(fills.usd, side = 'SELL' and not is_dust) as sells_usd,
    sum(fills.fee_usd) as fees_usd,
    count() as fills,
    countIf(role in ('taker', 'direct')) as trades,
    sum(fills.usd_change) as cash_flow_usd
from fills
group by day, wallet
