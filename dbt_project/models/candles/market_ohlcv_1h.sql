-- Both tokens of a market quote one price: that of the second outcome is 1 minus that of the first. So its prints are
-- mapped to the first outcome, where the lowest of them is the highest.
with tokens as (

    select
        token_id,
        market_id,
        condition_id,
        outcome_index,
        max(outcome_index) over (partition by market_id) as last_outcome_index
    from {{ ref('outcome_tokens') }}

),

candles as (

    select * from {{ ref('int_ohlcv_1h_deduplicated') }}

),

quotes as (

    select
        tokens.market_id as market_id,
        tokens.condition_id as condition_id,
        candles.bucket_at as bucket_at,
        tokens.outcome_index = 1 as is_complement,
        if(is_complement, 1 - candles.open, candles.open) as open,
        if(is_complement, 1 - candles.low, candles.high) as high,
        if(is_complement, 1 - candles.high, candles.low) as low,
        if(is_complement, 1 - candles.close, candles.close) as close,
        candles.volume_usd as volume_usd,
        candles.volume_shares as volume_shares,
        if(is_complement, candles.volume_shares - candles.volume_usd, candles.volume_usd) as first_outcome_usd,
        candles.trades as trades,
        (candles.first_trade_at, candles.first_position) as opened,
        (candles.last_trade_at, candles.last_position) as closed
    from candles
    inner all join tokens on candles.token_id = tokens.token_id
    where tokens.outcome_index = 0 or (tokens.outcome_index = 1 and tokens.last_outcome_index = 1)

)

select
    market_id,
    any(quotes.condition_id) as condition_id,
    bucket_at,
    argMin(quotes.open, quotes.opened) as open,
    max(quotes.high) as high,
    min(quotes.low) as low,
    argMax(quotes.close, quotes.closed) as close,
    toFloat64(sum(quotes.first_outcome_usd)) / toFloat64(sum(quotes.volume_shares)) as vwap,
    sum(quotes.volume_usd) as volume_usd,
    sum(quotes.volume_shares) as volume_shares,
    sum(quotes.trades) as trades
from quotes
group by market_id, bucket_at
