with times as (

    select
        toDate(filled_at) as day,
        count() as transactions,
        sumWithOverflow(cityHash64(tx_key, filled_at)) as checksum
    from {{ ref('transaction_times') }}
    where {{ in_conservation_days('filled_at') }}
    group by day

),

transactions as (

    select
        cityHash64(tx_hash) as tx_key,
        filled_at
    from {{ ref('order_fills') }}
    where {{ in_conservation_days('filled_at') }}
    group by tx_key, filled_at

),

of_fills as (

    select
        toDate(filled_at) as day,
        count() as transactions,
        sumWithOverflow(cityHash64(tx_key, filled_at)) as checksum
    from transactions
    group by day

)

select
    day,
    times.transactions as transaction_times,
    of_fills.transactions as transactions_of_fills
from times
full outer join of_fills using (day)
where times.checksum != of_fills.checksum or times.transactions != of_fills.transactions
