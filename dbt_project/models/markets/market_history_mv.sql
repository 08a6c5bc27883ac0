{{ config(materialized='materialized_view', catchup=false) }}
{{ materialization_target_table(ref('market_history_store')) }}
{{ market_versions(ref('markets_store')) }}
{{ pinned_settings() }}
