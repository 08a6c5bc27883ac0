-- Of some tokens, always the same: the gap-filled minutes of all of them would be billions of rows.
with tokens as (

    select token_id
    from {{ ref('ohlcv_1d') }}
    group by token_id
    order by cityHash64(token_id)
    limit {{ var('conservation_tokens') }}

),

sums as (

    {% for interval in ('1m', '1h', '1d') -%}
    {% for suffix in ('', '_filled') -%}
    select
        token_id,
        '{{ interval }}' as bucket,
        '{{ suffix }}' as kind,
        (sum(candles.volume_usd), sum(candles.volume_shares), sum(candles.trades)) as usd_shares_trades
    from {{ ref('ohlcv_' ~ interval ~ suffix) }} as candles
    where token_id in (select token_id from tokens)
    group by token_id
    {{ 'union all' if not loop.last }}
    {% endfor -%}
    {{ 'union all' if not loop.last }}
    {% endfor %}
)

select
    token_id,
    bucket,
    groupArray((kind, usd_shares_trades)) as sums
from sums
group by token_id, bucket
having count() != 2 or uniqExact(usd_shares_trades) != 1
