select
    token_id,
    price,
    priced_at
from {{ final(ref('market_latest_price_store')) }}
