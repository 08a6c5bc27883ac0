{#- One row per outcome token of a market; legacy markets without tokens have none. -#}
{% macro outcome_tokens_from_markets() %}
select
    token_id,
    market_id,
    condition_id,
    toUInt8(position - 1) as outcome_index,
    outcomes[position] as outcome,
    if(empty(payouts), null, payouts[position]) as payout,
    fetched_at,
    load_id
from {{ ref('markets_store') }}
array join
    token_ids as token_id,
    arrayEnumerate(token_ids) as position
where token_id != ''
{% endmacro %}
