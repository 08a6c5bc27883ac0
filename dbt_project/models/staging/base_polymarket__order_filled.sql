select *
from {{ source('polymarket_raw', 'order_filled') }} final
