-- Every order as its owner sees it. The operator of a direct fill trades from its own pocket, so for it, and only for it,
-- the side is the inverse: in mint and merge matches both wallets are on the same side, of different tokens.
with owners as (

    select
        * except (maker, taker, leg),
        maker as wallet,
        leg as role
    from {{ ref('int_order_fills_deduplicated') }}

),

operators as (

    select
        * except (maker, taker, leg, side, fee, fee_usd),
        taker as wallet,
        toLowCardinality('operator') as role,
        toLowCardinality(if(fills.side = 'BUY', 'SELL', 'BUY')) as side,
        toDecimal128(0, 6) as fee,
        toDecimal128(0, 6) as fee_usd
    from {{ ref('int_order_fills_deduplicated') }} as fills
    where leg = 'direct'

),

wallets as (

    {% for side_of_fill in ('owners', 'operators') -%}
    select
        fill_id,
        contract_version,
        exchange,
        block_number,
        log_index,
        tx_hash,
        order_hash,
        filled_at,
        wallet,
        role,
        side,
        token_id,
        shares,
        usd,
        price,
        fee,
        fee_asset,
        fee_usd,
        is_dust
    from {{ side_of_fill }}
    {{ 'union all' if not loop.last }}
    {% endfor %}
)

select
    ---------- ids
    fill_id,
    contract_version,
    exchange,
    block_number,
    log_index,
    tx_hash,
    order_hash,

    ---------- time
    filled_at,

    ---------- the wallet's own side
    wallet,
    role,
    side,
    token_id,
    shares,
    usd,
    price,
    fee,
    fee_asset,
    fee_usd,
    {{ shares_change() }} as shares_change,
    {{ usd_change() }} as usd_change,
    is_dust
from wallets
