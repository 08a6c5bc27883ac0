-- The sum of hashes is that of the same rows in any order, and needs no memory per fill.
with legs as (

    select
        toDate(filled_at) as day,
        count() as legs,
        sumWithOverflow(cityHash64(fill_id, leg, wallet, counterparty, side, token_id, shares, usd)) as checksum
    from {{ ref('trade_legs') }}
    where {{ in_conservation_days('filled_at') }}
    group by day

),

fills as (

    select
        toDate(filled_at) as day,
        count() as fills,
        sumWithOverflow(cityHash64(fill_id, leg, maker, taker, side, token_id, shares, usd)) as checksum
    from {{ ref('order_fills') }}
    where {{ in_conservation_days('filled_at') }}
    group by day

)

select
    day,
    legs.legs as legs,
    fills.fills as fills
from legs
full outer join fills using (day)
where legs.checksum != fills.checksum or legs.legs != fills.fills
