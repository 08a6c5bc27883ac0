with days as (

    select
        event_id,
        (sum(volume_usd), sum(volume_shares), sum(trades)) as sums
    from {{ ref('event_volume_daily') }}
    group by event_id

)

select
    event_volume.event_id as event_id,
    (volume_usd, volume_shares, trades) as usd_shares_trades,
    days.sums as usd_shares_trades_of_days
from {{ ref('event_volume') }} as event_volume
left any join days on event_volume.event_id = days.event_id
where (volume_usd, volume_shares, trades) != days.sums
