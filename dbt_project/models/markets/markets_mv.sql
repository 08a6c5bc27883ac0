{{ config(materialized='materialized_view', catchup=false, enabled=is_production()) }}
{{ materialization_target_table(ref('markets_store')) }}
{{ markets_from_payload() }}
{{ pinned_settings() }}
