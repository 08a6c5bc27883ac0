with fills as (

    select
        fills.filled_at as filled_at,
        fills.tx_hash as tx_hash,
        fills.role as role,
        fills.shares as shares,
        fills.is_dust as is_dust,
        tokens.market_id as market_id,
        tokens.outcome_index as outcome_index,
        fills.shares_change + if(fills.fee_asset = 'shares', fills.fee, toDecimal128(0, 6)) as shares_before_fee,
        fills.usd_change + if(fills.fee_asset = 'usd', fills.fee, toDecimal128(0, 6)) as usd_before_fee
    from {{ ref('wallet_fills') }} as fills
    inner join {{ ref('outcome_tokens') }} as tokens on fills.token_id = tokens.token_id
    where {{ in_conservation_days('fills.filled_at') }}

),

matches as (

    select
        filled_at,
        tx_hash,
        market_id,
        sumIf(shares, role = 'taker') as taker_shares,
        sumIf(shares, role = 'maker') as maker_shares,
        sumIf(shares_before_fee, outcome_index = 0) as first_outcome_shares,
        sumIf(shares_before_fee, outcome_index = 1) as second_outcome_shares,
        sum(usd_before_fee) as usd,
        count() as sides
    from fills
    group by filled_at, tx_hash, market_id
    having countIf(is_dust) = 0

)

-- A match of which not all legs are known cannot balance: the exchange does not take off what it refunds to a SELL, and
-- the archive keeps only the last of two fills of one order in a transaction. `trades` warns of both.
select * from matches
where
    maker_shares >= taker_shares
    and (
        first_outcome_shares != second_outcome_shares
        or abs(usd + first_outcome_shares) > 0.01 * taker_shares + 0.000001 * sides
    )
