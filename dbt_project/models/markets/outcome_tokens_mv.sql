{{ config(materialized='materialized_view', catchup=false, enabled=is_production()) }}
{{ materialization_target_table(ref('outcome_tokens_store')) }}
{{ outcome_tokens_from_payload() }}
{{ pinned_settings() }}
