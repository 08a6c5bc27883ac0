{{ config(materialized='materialized_view', catchup=false) }}
{{ materialization_target_table(ref('markets_store')) }}
{{ markets_from_payload() }}
{{ pinned_settings() }}
