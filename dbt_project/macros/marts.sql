{#- Start of the 24 hourly buckets that end with the one of the newest trade: what "24h" means in the marts. -#}
{% macro last_24h_start() -%}
    (select toStartOfHour(max(priced_at)) - interval 23 hour from {{ ref('market_latest_price') }})
{%- endmacro %}

{#-
    True for times of the last `conservation_days` days up to that of the newest fill (or record of Gamma), which conservation tests are
    limited to. Asked of raw, which no mistake of a model can touch and whose parts know their newest time.
-#}
{% macro in_conservation_days(at, landing_table='order_filled', landed_at='timestamp') -%}
    {{ at }} >= (
        select toStartOfDay(max({{ landed_at }}) + interval 1 day) - toIntervalDay({{ var('conservation_days') }})
        from {{ source('polymarket_raw', landing_table) }}
    )
{%- endmacro %}

{#- One row per market and tag: a market has a tag once, in however many of its events. -#}
{% macro tags_of_markets() -%}
    select distinct
        pairs.market_id as market_id,
        event_tags.tag_slug as tag_slug
    from {{ ref('markets_events') }} as pairs
    inner all join {{ ref('event_tags') }} as event_tags on pairs.event_id = event_tags.event_id
{%- endmacro %}
