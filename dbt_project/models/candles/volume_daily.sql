select
    toDate(bucket_at) as day,
    token_id,
    volume_usd,
    volume_shares,
    trades
from {{ ref('ohlcv_1d') }}
