select
    tx_key,
    filled_at
from {{ final(ref('transaction_times_store')) }}
