select *
from {{ final(source('polymarket_raw', 'order_filled')) }}
