-- How public pipelines count, on the fills at hand: one row per documented transform, restated here, with what it
-- arrives at, what this project says and the ratio of the two. docs/semantics.md says who counts so, and where it is
-- documented.
--
--     python run_pipeline.py --demo dbt show --quiet --select how_peers_count --limit -1
with legs as (

    select
        toFloat64(sum(usd)) as all_usd,
        toFloat64(sumIf(usd, leg != 'taker')) as maker_usd,
        toFloat64(sum(shares)) as all_shares,
        toFloat64(sumIf(shares, leg != 'direct')) as matched_shares,
        toFloat64(sum(fee)) as all_fees,
        toFloat64(sum(fee_usd)) as all_fees_usd,
        toFloat64(maxIf(price, shares > 0)) as highest_price,
        toFloat64(count()) as fills
    from {{ ref('order_fills') }}

),

official as (

    select
        toFloat64(sumIf(usd, not is_dust)) as all_usd,
        toFloat64(sumIf(usd, not is_dust and contract_version = 'v2')) as v2_usd,
        -- The CTF Exchange of V2, without its NegRisk sibling.
        toFloat64(sumIf(usd, not is_dust and exchange = '0xe111180000d2663c0091e4f400237545b87b996b')) as one_exchange_usd,
        toFloat64(sumIf(usd, not is_dust and filled_at > (select max(filled_at) from {{ ref('trades') }}) - 86400))
            as newest_day_usd,
        toFloat64(sumIf(shares, match_type != 'direct')) as matched_shares,
        toFloat64(count()) as trades
    from {{ ref('trades') }}

),

tokens_of_legs as (

    select
        token_id,
        sum(usd) / 2 as half_usd,
        sumIf(usd, leg != 'taker') as maker_usd
    from {{ ref('order_fills') }}
    group by token_id

),

tokens_of_trades as (

    select
        token_id,
        sum(volume_usd) as usd
    from {{ ref('volume_daily') }}
    group by token_id

),

-- A total may agree while its parts do not: tokens whose volume is right within one per cent.
tokens as (

    select
        toFloat64(countIf(abs(theirs.half_usd / ours.usd - 1) <= 0.01)) as right_by_half,
        toFloat64(countIf(abs(theirs.maker_usd / ours.usd - 1) <= 0.01)) as right_by_makers,
        toFloat64(count()) as all_tokens
    from tokens_of_trades as ours
    left join tokens_of_legs as theirs on ours.token_id = theirs.token_id

),

-- What stays of a transaction when its hash is taken for a key: one fill, the last.
last_fills as (

    select argMax(usd, (log_index, order_hash)) as last_usd
    from {{ ref('order_fills') }}
    group by filled_at, tx_hash

),

one_fill_per_transaction as (

    select toFloat64(sum(last_usd)) as all_usd
    from last_fills

),

-- What the maker's side says about the taker when it is turned round, against what the taker's own leg says.
inverted_makers as (

    select
        toFloat64(countIf(makers.token_id = trades.token_id and makers.side != trades.side)) as right_sides,
        toFloat64(count()) as sides
    from {{ ref('trade_legs') }} as makers
    inner join {{ ref('trades') }} as trades on makers.trade_id = trades.trade_id
    where makers.leg = 'maker'

),

candles_of_legs as (

    select
        token_id,
        toStartOfHour(filled_at) as bucket_at,
        toFloat64(max(price)) as high,
        toFloat64(min(price)) as low
    from {{ ref('order_fills') }}
    where shares > 0
    group by token_id, bucket_at

),

candles as (

    select
        toFloat64(countIf(theirs.token_id != '')) as of_legs,
        toFloat64(countIf(ours.token_id != '')) as of_trades,
        toFloat64(countIf(ours.token_id != '' and theirs.high = ours.high and theirs.low = ours.low)) as with_same_range,
        toFloat64(max(ours.high)) as highest_price
    from candles_of_legs as theirs
    full outer join {{ ref('ohlcv_1h') }} as ours on theirs.token_id = ours.token_id and theirs.bucket_at = ours.bucket_at

)

select
    comparison.1 as transform,
    comparison.2 as measure,
    round(comparison.3, 2) as theirs,
    round(comparison.4, 2) as here,
    if(comparison.4 = 0, null, round(comparison.3 / comparison.4, 3)) as ratio
from legs
cross join official
cross join tokens
cross join one_fill_per_transaction
cross join inverted_makers
cross join candles
array join
    [
        ('all legs', 'volume, $', legs.all_usd, official.all_usd),
        ('all legs', 'matched shares', legs.matched_shares, official.matched_shares),
        ('all legs', 'trades', legs.fills, official.trades),
        ('half of all legs', 'volume, $', legs.all_usd / 2, official.all_usd),
        ('half of all legs', 'tokens within 1 %', tokens.right_by_half, tokens.all_tokens),
        ('maker legs', 'volume, $', legs.maker_usd, official.all_usd),
        ('maker legs', 'tokens within 1 %', tokens.right_by_makers, tokens.all_tokens),
        ('shares as dollars', 'volume, $', legs.all_shares, official.all_usd),
        ('one fill per tx', 'volume, $', one_fill_per_transaction.all_usd, official.all_usd),
        ('one exchange', 'V2 volume, $', official.one_exchange_usd, official.v2_usd),
        ('accumulated twice', 'volume, $', official.all_usd + official.newest_day_usd, official.all_usd),
        ('taker = not maker', 'right sides', inverted_makers.right_sides, inverted_makers.sides),
        ('candles of all legs', 'candles', candles.of_legs, candles.of_trades),
        ('candles of all legs', 'high and low right', candles.with_same_range, candles.of_trades),
        ('candles of all legs', 'highest price, $', legs.highest_price, candles.highest_price),
        ('fee / 1e6', 'fees, $', legs.all_fees, legs.all_fees_usd)
    ] as comparison
