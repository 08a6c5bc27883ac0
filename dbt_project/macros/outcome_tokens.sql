{#-
    One row per outcome token of a market; legacy markets without tokens have none. A market of protocol version v2 may
    name two pairs: its position ids, and the tokens that it had before it moved. Both stand for its outcomes.
-#}
{% macro outcome_tokens_from_payload() %}
select
    token_id,
    market_id,
    condition_id,
    toUInt8(position - 1) as outcome_index,
    outcomes[position] as outcome,
    if(empty(payouts), null, payouts[position]) as payout,
    fetched_at,
    load_id
from ({{ markets_from_payload('*') }})
array join
    arrayConcat(token_ids, earlier_token_ids) as token_id,
    arrayConcat(arrayEnumerate(token_ids), arrayEnumerate(earlier_token_ids)) as position
where token_id != ''
{% endmacro %}

{#-
    The columns that say which market and outcome a token stands for, of `tokens` joined to rows with `position_id`. They are
    empty until Gamma lists the market, but for what a position id says itself.
-#}
{% macro market_of_token() -%}
    coalesce(tokens.market_id, '') as market_id,
    if(
        coalesce(tokens.market_id, '') = '', {{ position_condition_id('position_id') }},
        coalesce(tokens.condition_id, '')
    ) as condition_id,
    coalesce(tokens.outcome, '') as outcome,
    if(
        coalesce(tokens.market_id, '') = '', {{ position_outcome_index('position_id') }},
        tokens.outcome_index
    ) as outcome_index
{%- endmacro %}
