select
    token_id,
    price,
    priced_at
from {{ ref('market_latest_price_store') }} final
