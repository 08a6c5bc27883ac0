-- Of the markets themselves: outcome_tokens keeps one row per token and would hide it.
select
    token_id,
    groupUniqArray(condition_id) as condition_ids
from {{ ref('markets') }}
array join token_ids as token_id
group by token_id
having length(condition_ids) > 1
