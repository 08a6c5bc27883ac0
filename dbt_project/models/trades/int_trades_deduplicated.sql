select * except (version, is_deleted)
from {{ ref('trades_store') }} final
