select * except (version, is_deleted)
from {{ final(ref('ohlcv_1h_store')) }}
