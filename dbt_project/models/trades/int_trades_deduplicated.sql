select * except (version, is_deleted)
from {{ final(ref('trades_store')) }}
