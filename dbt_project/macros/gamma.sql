{#-
    Readers of Gamma payloads. Almost every field may be null, absent or retyped. Then texts are empty and booleans false;
    numbers and times are null, because 0 would say something else.
-#}

{#- A number that Gamma sends as a number in one entity and as a string in another, as dollars. -#}
{% macro json_usd(field) -%}
    toDecimal128OrNull(trimBoth(JSONExtractRaw(payload, '{{ field }}'), '"'), 6)
{%- endmacro %}

{#- A number above 0; null for any other, because a step of 0 is none. -#}
{% macro json_step(field) -%}
    if({{ json_float(field) }} > 0, {{ json_float(field) }}, null)
{%- endmacro %}

{% macro json_float(field) -%}
    toFloat64OrNull(trimBoth(JSONExtractRaw(payload, '{{ field }}'), '"'))
{%- endmacro %}

{#- Prices, which Gamma sends as texts of up to 34 digits, cut to 18 digits as in trades; null where a text is no number. -#}
{% macro prices_from_texts(texts) -%}
    arrayMap(price -> toDecimal128OrNull(price, 18), {{ texts }})
{%- endmacro %}

{% macro json_float_in(object, field) -%}
    toFloat64OrNull(trimBoth(JSONExtractRaw(payload, '{{ object }}', '{{ field }}'), '"'))
{%- endmacro %}

{#- RFC 3339, or Gamma's other form: 2026-07-24 00:00:16+00. A zero (Go writes 0001-01-01T00:00:00Z) is no time. -#}
{% macro json_time(field) -%}
    if({{ json_any_time(field) }} > toDateTime64(0, 6, 'UTC'), {{ json_any_time(field) }}, null)
{%- endmacro %}

{% macro json_any_time(field) -%}
    parseDateTime64BestEffortOrNull(JSONExtractString(payload, '{{ field }}'), 6, 'UTC')
{%- endmacro %}

{#- Outcome tokens by outcome index: empty text where an outcome has none (empty, null, 0), no item where no outcome has one. -#}
{% macro outcome_token_ids(items) -%}
    if(
        arrayExists(item -> item not in ('', '0'), {{ items }}),
        arrayMap(item -> if(item = '0', '', item), {{ items }}),
        []
    )
{%- endmacro %}

{#- An array of strings that Gamma sends as a JSON text inside a string. -#}
{% macro json_text_array(field) -%}
    JSONExtract(JSONExtractString(payload, '{{ field }}'), 'Array(String)')
{%- endmacro %}

{#- One field of every object of a nested array. -#}
{% macro json_each(field, key) -%}
    arrayMap(item -> JSONExtractString(item, '{{ key }}'), JSONExtractArrayRaw(payload, '{{ field }}'))
{%- endmacro %}

{#-
    What a share of each outcome pays, in dollars, by outcome index; empty while that is not decided. The one place with
    the rule, which the description of `markets` states in words:
    - winner: closed, one price is 1 and all others are 0, and the oracle's answer is not still open (proposed,
      disputed). `resolved` is not asked for, because Gamma leaves the oracle's state out of many resolved markets.
      Less than 1e-4 from 1 or 0 counts as 1 or 0: the pools of early markets stay at prices like 0.00000041 and
      0.99999959 when they are decided.
    - split: closed and resolved, and every price is 1/n. Here `resolved` is needed: a market that closed without a
      trade shows equal prices too.
    - else undecided, as are legacy markets that closed at 0.58 and 0.42 (their last prices) or at 0 and 0.
    `prices` are cut to the six digits of a payout, so that 1/3 equals 0.3333333333.
-#}
{% macro payouts(prices, closed, uma_resolution_status) -%}
    {%- set near = "toDecimal32('0.0001', 6)" -%}
    {%- set decided -%}
        arrayMap(
            price -> multiIf(
                abs(price) < {{ near }}, toDecimal32(0, 6),
                abs(price - 1) < {{ near }}, toDecimal32(1, 6),
                price
            ),
            {{ prices }}
        )
    {%- endset -%}
    multiIf(
        {{ closed }}
        and countEqual({{ decided }}, 1) = 1
        and countEqual({{ decided }}, 0) = length({{ prices }}) - 1
        and {{ uma_resolution_status }} not in ('proposed', 'disputed'), {{ decided }},
        {{ closed }}
        and length({{ prices }}) > 1
        and countEqual({{ prices }}, toDecimal32(1, 6) / greatest(length({{ prices }}), 1)) = length({{ prices }})
        and {{ uma_resolution_status }} = 'resolved', {{ prices }},
        []
    )
{%- endmacro %}

{% macro markets_from_payload(columns='* except (earlier_token_ids)') %}
with fields as (

    select
        ---------- ids
        market_id,
        lower(JSONExtractString(payload, 'conditionId')) as condition_id,
        lower(JSONExtractString(payload, 'questionID')) as question_id,
        lower(JSONExtractString(payload, 'negRiskMarketID')) as neg_risk_market_id,
        {{ json_each('events', 'id') }} as event_ids,

        ---------- text
        JSONExtractString(payload, 'slug') as slug,
        JSONExtractString(payload, 'question') as question,
        JSONExtractString(payload, 'groupItemTitle') as group_item_title,
        {{ json_each('events', 'slug') }}[1] as event_slug,
        JSONExtractString(payload, 'category') as category,
        JSONExtractString(payload, 'description') as description,
        JSONExtractString(payload, 'resolutionSource') as resolution_source,
        JSONExtractString(payload, 'feeType') as fee_type,
        JSONExtractString(payload, 'sportsMarketType') as sports_market_type,
        JSONExtractString(payload, 'gameId') as game_id,
        JSONExtractString(payload, 'umaResolutionStatus') as uma_resolution_status,

        ---------- outcomes, by outcome index
        {{ json_text_array('outcomes') }} as outcomes,
        {{ json_text_array('outcomePrices') }} as outcome_prices,
        -- Markets of protocol version v2 name their tokens positionIds, as a real array.
        if(
            JSONExtractString(payload, 'version') = 'v2',
            {{ outcome_token_ids("JSONExtract(payload, 'positionIds', 'Array(String)')") }},
            {{ outcome_token_ids(json_text_array('clobTokenIds')) }}
        ) as token_ids,
        -- One that moved to v2 may still name the tokens that it had before.
        if(
            JSONExtractString(payload, 'version') = 'v2',
            {{ outcome_token_ids(json_text_array('clobTokenIds')) }},
            []
        ) as earlier_token_ids,

        ---------- numbers
        {{ json_usd('volume') }} as volume_usd,
        {{ json_usd('liquidity') }} as liquidity_usd,
        {{ json_step('orderPriceMinTickSize') }} as tick_size,
        {{ json_usd('volume24hr') }} as volume_usd_24h,
        {{ json_usd('orderMinSize') }} as order_min_size,
        {{ json_float('bestBid') }} as best_bid,
        {{ json_float('bestAsk') }} as best_ask,
        {{ json_float('spread') }} as spread,
        {{ json_step('lastTradePrice') }} as last_trade_price,
        {{ json_float('makerBaseFee') }} as maker_base_fee,
        {{ json_float('takerBaseFee') }} as taker_base_fee,
        {{ json_float_in('feeSchedule', 'rate') }} as fee_rate,
        {{ json_float_in('feeSchedule', 'exponent') }} as fee_exponent,
        {{ json_float_in('feeSchedule', 'rebateRate') }} as fee_rebate_rate,
        {{ json_float('line') }} as line,
        {{ json_float('groupItemThreshold') }} as group_item_threshold,

        ---------- booleans
        toBool(JSONExtractBool(payload, 'active')) as active,
        toBool(JSONExtractBool(payload, 'closed')) as closed,
        toBool(JSONExtractBool(payload, 'negRisk')) as neg_risk,
        toBool(JSONExtractBool(payload, 'feesEnabled')) as fees_enabled,
        toBool(JSONExtractBool(payload, 'feeSchedule', 'takerOnly')) as fee_taker_only,

        ---------- times
        {{ json_time('createdAt') }} as created_at,
        {{ json_time('endDate') }} as end_at,
        {{ json_time('closedTime') }} as closed_at,
        {{ json_time('updatedAt') }} as updated_at,
        {{ json_time('startDate') }} as start_at,
        {{ json_time('gameStartTime') }} as game_start_at,
        {{ json_time('eventStartTime') }} as event_start_at,

        ---------- bookkeeping
        fetched_at,
        load_id
    from {{ source('polymarket_raw', 'markets') }}

),

priced as (

    -- A text that is no price becomes -1, which fits no rule.
    select
        *,
        arrayMap(price -> toDecimal32OrDefault(price, 6, toDecimal32(-1, 6)), outcome_prices) as prices
    from fields

),

resolved as (

    select
        * except (prices),
        {{ payouts('prices', 'closed', 'uma_resolution_status') }} as payouts,
        toLowCardinality(multiIf(empty(payouts), 'unresolved', has(payouts, 1), 'winner', 'split')) as resolution,
        if(resolution = 'winner', toUInt8(indexOf(payouts, 1) - 1), null) as winning_outcome_index,
        if(resolution = 'winner', outcomes[indexOf(payouts, 1)], '') as winning_outcome
    from priced

)

select {{ columns }} from resolved
{% endmacro %}

{#- The fields of a market of which every version is kept. -#}
{% macro market_versions(markets) %}
select
    market_id,
    fetched_at,
    question,
    active,
    closed,
    outcome_prices,
    volume_usd,
    liquidity_usd,
    uma_resolution_status,
    resolution,
    load_id
from {{ markets }}
{% endmacro %}

{% macro events_from_payload() %}
select
    ---------- ids
    event_id,
    lower(JSONExtractString(payload, 'negRiskMarketID')) as neg_risk_market_id,
    {{ json_each('markets', 'id') }} as market_ids,

    ---------- text
    JSONExtractString(payload, 'slug') as slug,
    JSONExtractString(payload, 'title') as title,
    JSONExtractString(payload, 'seriesSlug') as series_slug,

    ---------- tags, in one order
    {{ json_each('tags', 'label') }} as tags,
    {{ json_each('tags', 'slug') }} as tag_slugs,
    {{ json_each('tags', 'id') }} as tag_ids,

    ---------- series, in one order
    {{ json_each('series', 'id') }} as series_ids,
    {{ json_each('series', 'slug') }} as series_slugs,
    {{ json_each('series', 'title') }} as series_titles,
    {{ json_each('series', 'recurrence') }} as series_recurrences,

    ---------- numbers
    {{ json_usd('volume') }} as volume_usd,
    {{ json_usd('liquidity') }} as liquidity_usd,

    ---------- booleans
    toBool(JSONExtractBool(payload, 'active')) as active,
    toBool(JSONExtractBool(payload, 'closed')) as closed,
    toBool(JSONExtractBool(payload, 'negRisk')) as neg_risk,

    ---------- times
    {{ json_time('createdAt') }} as created_at,
    {{ json_time('endDate') }} as end_at,
    {{ json_time('closedTime') }} as closed_at,
    {{ json_time('updatedAt') }} as updated_at,

    ---------- bookkeeping
    fetched_at,
    load_id
from {{ source('polymarket_raw', 'events') }}
{% endmacro %}

{#-
    Rows of the loads being settled that the materialized view has not written; all rows on a first run. A rebuild
    settles every row of its time range, and looks at no other: fetched_at has fractions, the ends are whole seconds.
-#}
{% macro not_yet_stored(from_relation, landing_table, key) %}
with
{{ settling(landing_table) }}

found as (

    select * from {{ from_relation }}

)

select *
from found
{%- if is_incremental() %}
{%- set in_range -%}
    fetched_at >= (select from_at from settling) and fetched_at < addSeconds((select to_at from settling), 1)
{%- endset %}
where
    {{ in_range }}
    and {{ in_settling_load() }}
    and ({{ key }}, fetched_at) not in (select {{ key }}, fetched_at from {{ this }} where {{ in_range }})
{%- endif %}
{% endmacro %}
