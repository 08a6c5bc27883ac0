select
    token_id,
    market_id,
    condition_id,
    outcome_index,
    outcome,
    payout
from {{ final(ref('outcome_tokens_store')) }}
