{#- Readers of Gamma payloads. Almost every field may be null, absent or retyped, so each reader has a neutral value. -#}

{#- A number that Gamma sends as a number in one entity and as a string in another, as dollars. -#}
{% macro json_usd(field) -%}
    ifNull(toDecimal128OrNull(trimBoth(JSONExtractRaw(payload, '{{ field }}'), '"'), 6), 0)
{%- endmacro %}

{#- RFC 3339, or Gamma's other form: 2026-07-24 00:00:16+00. -#}
{% macro json_time(field) -%}
    parseDateTime64BestEffortOrNull(JSONExtractString(payload, '{{ field }}'), 6, 'UTC')
{%- endmacro %}

{#- An array of strings that Gamma sends as a JSON text inside a string. -#}
{% macro json_text_array(field) -%}
    JSONExtract(JSONExtractString(payload, '{{ field }}'), 'Array(String)')
{%- endmacro %}

{#- One field of every object of a nested array. -#}
{% macro json_each(field, key) -%}
    arrayMap(item -> JSONExtractString(item, '{{ key }}'), JSONExtractArrayRaw(payload, '{{ field }}'))
{%- endmacro %}

{% macro markets_from_payload() %}
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
    {{ json_each('events', 'slug') }}[1] as event_slug,
    JSONExtractString(payload, 'category') as category,
    JSONExtractString(payload, 'umaResolutionStatus') as uma_resolution_status,

    ---------- outcomes, by outcome index
    {{ json_text_array('outcomes') }} as outcomes,
    {{ json_text_array('outcomePrices') }} as outcome_prices,
    -- Markets of protocol version v2 name their tokens positionIds, as a real array.
    if(
        JSONExtractString(payload, 'version') = 'v2',
        JSONExtract(payload, 'positionIds', 'Array(String)'),
        {{ json_text_array('clobTokenIds') }}
    ) as token_ids,

    ---------- numbers
    {{ json_usd('volume') }} as volume_usd,
    {{ json_usd('liquidity') }} as liquidity_usd,
    JSONExtractFloat(payload, 'orderPriceMinTickSize') as tick_size,

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
from {{ source('polymarket_raw', 'markets') }}
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
    {{ json_each('tags', 'label') }} as tags,
    {{ json_each('tags', 'slug') }} as tag_slugs,

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

{#- Rows of the loads being settled that the materialized view has not written; all rows on a first run. -#}
{% macro not_yet_stored(from_relation, landing_table, key) %}
select *
from {{ from_relation }}
{%- if is_incremental() %}
where
    {{ in_settling_load(landing_table) }}
    and ({{ key }}, fetched_at) not in (select {{ key }}, fetched_at from {{ this }})
{%- endif %}
{% endmacro %}
