select * except (version, is_deleted)
from {{ ref('ohlcv_1h_store') }} final
