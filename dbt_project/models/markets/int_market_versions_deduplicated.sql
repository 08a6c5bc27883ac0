select * except (load_id)
from {{ final(ref('market_history_store')) }}
