{#-
    OrderFilled, V1, V2 and V3, in one shape. Row by row, so that the same text serves the staging view and the materialized
    view; whether a maker leg is a direct fill needs the rest of its transaction and is settled in order_fills_store.
    Rows of a generation or an exchange that is not known are left out here and shown by refused_fills.

    V1: asset 0 is collateral, so an order that gives asset 0 buys. V2 and V3 say side and token themselves.
    V1 charges its fee in the asset received, V2 and V3 in collateral. All amounts are 1e-6 units.
-#}
{% macro order_fills_from_order_filled(relation) %}
with source as (

    select
        * except (side, token_id, fee, load_id),
        side as order_side,
        token_id as order_token_id,
        fee as fee_units,
        load_id,
        if(contract_version = 'v1', maker_asset_id = '0', order_side = 'BUY') as is_buy,
        if(is_buy, maker_amount, taker_amount) as usd_units,
        if(is_buy, taker_amount, maker_amount) as share_units
    from {{ relation }}
    where {{ is_known_exchange() }}

),

renamed as (

    select
        ---------- time and place
        timestamp as filled_at,
        block_number,
        log_index,
        tx_hash,
        order_hash,
        contract_version,
        exchange,

        ---------- parties
        maker,
        taker,
        toLowCardinality(if(taker in ({{ exchange_addresses() }}), 'taker', 'maker')) as leg,

        ---------- what was exchanged
        toLowCardinality(if(is_buy, 'BUY', 'SELL')) as side,
        toLowCardinality(multiIf(contract_version != 'v1', order_token_id, is_buy, taker_asset_id, maker_asset_id)) as token_id,
        toDecimal128(share_units, 6) / 1000000 as shares,
        toDecimal128(usd_units, 6) / 1000000 as usd,
        if(share_units = 0, toDecimal128(0, 18), toDecimal128(usd_units, 18) / greatest(share_units, 1)) as price,
        toDecimal128(fee_units, 6) / 1000000 as fee,
        toLowCardinality(if(contract_version = 'v1' and is_buy, 'shares', 'usd')) as fee_asset,
        toBool(share_units = 0 or usd_units > share_units) as is_dust,

        ---------- bookkeeping
        is_deleted,
        load_id
    from source

)

select * from renamed
{% endmacro %}

{#- Whether the generation is known and the exchange is one of it. The archive names the exchange of taker legs only. -#}
{% macro is_known_exchange() -%}
    (
        (contract_version, exchange) in ({{ exchange_generations() }})
        or (contract_version = 'v1' and exchange = '')
    )
{%- endmacro %}

{#-
    Whether one of a transaction's `taker_legs` (owner, log index) is of the order that a fill was matched with. A maker leg
    names the owner of the taker order as its taker, and precedes that order's own leg; the archive says no positions.
-#}
{% macro is_of_taker_order(taker, log_index) -%}
    arrayExists(t -> t.1 = {{ taker }} and (t.2 > {{ log_index }} or t.2 = 0), taker_legs)
{%- endmacro %}

{#- A fee in dollars: one in shares is worth its shares at the price of its own fill, cut to 1e-6. -#}
{% macro fee_in_usd() -%}
    multiIf(
        fee_asset = 'usd', fee,
        shares = 0, toDecimal128(0, 6),
        toDecimal128(toDecimal256(fee, 6) * usd / if(shares = 0, toDecimal128(1, 6), shares), 6)
    )
{%- endmacro %}

{#- Key of a fill for users: its log where the chain says the position, else its order (the archive). -#}
{% macro fill_key() -%}
    if(block_number > 0, concat(tx_hash, '_', toString(log_index)), concat(tx_hash, '_', order_hash))
{%- endmacro %}

{#-
    Where a fill stands among those of its second, comparable as one number: block and log index where the chain says
    them, else the leading 64 bits each of transaction and order hash, which is the archive's own order of ids.
-#}
{% macro execution_position() -%}
    if(
        block_number > 0,
        bitShiftLeft(toUInt128(block_number), 32) + log_index,
        bitShiftLeft(toUInt128({{ leading_bits('tx_hash') }}), 64) + {{ leading_bits('order_hash') }}
    )
{%- endmacro %}

{% macro leading_bits(hash) -%}
    reinterpretAsUInt64(reverse(unhex(substring({{ hash }}, 3, 16))))
{%- endmacro %}
