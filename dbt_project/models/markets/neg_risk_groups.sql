-- Ids are numbers as text: the oldest event of a group is the one with the smallest.
with groups as (

    select
        neg_risk_market_id,
        count() as markets,
        countIf(not closed) as open_markets,
        arraySort(groupArray(market_id)) as market_ids,
        coalesce(sum(volume_usd), toDecimal128(0, 6)) as volume_usd,
        argMinIf(market_id, toUInt64OrZero(market_id), winning_outcome_index = 0) as winning_market_id
    from {{ ref('markets') }}
    where neg_risk_market_id != ''
    group by neg_risk_market_id

),

events as (

    select
        neg_risk_market_id,
        argMin(event_id, toUInt64OrZero(event_id)) as oldest_event_id,
        argMin(title, toUInt64OrZero(event_id)) as oldest_title
    from {{ ref('events') }}
    where neg_risk_market_id != ''
    group by neg_risk_market_id

)

select
    groups.neg_risk_market_id as neg_risk_market_id,
    coalesce(events.oldest_event_id, '') as event_id,
    coalesce(events.oldest_title, '') as title,
    groups.markets as markets,
    groups.open_markets as open_markets,
    groups.market_ids as market_ids,
    groups.volume_usd as volume_usd,
    groups.winning_market_id as winning_market_id
from groups
left any join events on groups.neg_risk_market_id = events.neg_risk_market_id
