select * except (load_id)
from {{ ref('market_history_store') }} final
