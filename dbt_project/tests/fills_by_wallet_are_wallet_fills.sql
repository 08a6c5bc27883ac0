-- The sum of hashes is that of the same rows in any order, and needs no memory per fill.
with by_wallet as (

    select
        toDate(filled_at) as day,
        count() as row_count,
        sumWithOverflow(cityHash64(fill_id, wallet, role, side, token_id, shares_change, usd_change, fee_usd)) as checksum
    from {{ ref('fills_by_wallet') }}
    where {{ in_conservation_days('filled_at') }}
    group by day

),

by_time as (

    select
        toDate(filled_at) as day,
        count() as row_count,
        sumWithOverflow(cityHash64(fill_id, wallet, role, side, token_id, shares_change, usd_change, fee_usd)) as checksum
    from {{ ref('wallet_fills') }}
    where {{ in_conservation_days('filled_at') }}
    group by day

)

select
    day,
    by_wallet.row_count as fills_by_wallet,
    by_time.row_count as wallet_fills
from by_wallet
full outer join by_time using (day)
where by_wallet.checksum != by_time.checksum or by_wallet.row_count != by_time.row_count
