-- The sum of hashes is that of the same rows in any order, and needs no memory per trade.
{%- set content = 'cityHash64(filled_at, tx_hash, log_index, order_hash, wallet, side, token_id, shares, usd, fee_usd)' %}
with legs as (

    select
        toDate(filled_at) as day,
        count() as legs,
        sumWithOverflow({{ content }}) as checksum
    from {{ ref('trade_legs') }}
    where leg != 'maker' and {{ in_conservation_days('filled_at') }}
    group by day

),

trades as (

    select
        toDate(filled_at) as day,
        count() as trades,
        sumWithOverflow({{ content }}) as checksum
    from {{ ref('trades') }}
    where {{ in_conservation_days('filled_at') }}
    group by day

)

select
    day,
    legs.legs as legs,
    trades.trades as trades
from legs
full outer join trades using (day)
where legs.checksum != trades.checksum or legs.legs != trades.trades
