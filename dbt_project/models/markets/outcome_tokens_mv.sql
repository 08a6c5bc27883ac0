{{ config(materialized='materialized_view', catchup=false) }}
{{ materialization_target_table(ref('outcome_tokens_store')) }}
{{ outcome_tokens_from_payload() }}
{{ pinned_settings() }}
