with volumes as (

    select
        'trades' as relation,
        toDate(filled_at) as day,
        sum(usd) as volume_usd,
        sum(shares) as volume_shares,
        count() as trades
    from {{ ref('trades') }}
    where not is_dust and {{ in_conservation_days('filled_at') }}
    group by day
    {%- for candles in ('ohlcv_1m', 'ohlcv_1h', 'ohlcv_1d') %}
    union all
    select
        '{{ candles }}' as relation,
        toDate(bucket_at) as day,
        sum(candles.volume_usd) as volume_usd,
        sum(candles.volume_shares) as volume_shares,
        sum(candles.trades) as trades
    from {{ ref(candles) }} as candles
    where {{ in_conservation_days('bucket_at') }}
    group by day
    {%- endfor %}
    union all
    select
        'volume_daily' as relation,
        day,
        sum(tokens.volume_usd) as volume_usd,
        sum(tokens.volume_shares) as volume_shares,
        sum(tokens.trades) as trades
    from {{ ref('volume_daily') }} as tokens
    where {{ in_conservation_days('day') }}
    group by day

)

select
    day,
    groupArray((relation, volume_usd, volume_shares, trades)) as volumes
from volumes
group by day
having count() != 5 or uniqExact(volume_usd, volume_shares, trades) != 1
