-- The sum of hashes is that of the same rows in any order, and needs no memory per trade.
with by_token as (

    select
        toDate(filled_at) as day,
        count() as row_count,
        sumWithOverflow(cityHash64(trade_id, wallet, side, token_id, match_type, shares, usd, maker_usd)) as checksum
    from {{ ref('trades_by_token') }}
    where {{ in_conservation_days('filled_at') }}
    group by day

),

by_time as (

    select
        toDate(filled_at) as day,
        count() as row_count,
        sumWithOverflow(cityHash64(trade_id, wallet, side, token_id, match_type, shares, usd, maker_usd)) as checksum
    from {{ ref('trades') }}
    where {{ in_conservation_days('filled_at') }}
    group by day

)

select
    day,
    by_token.row_count as trades_by_token,
    by_time.row_count as trades
from by_token
full outer join by_time using (day)
where by_token.checksum != by_time.checksum or by_token.row_count != by_time.row_count
