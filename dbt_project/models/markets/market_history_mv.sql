{{ config(materialized='materialized_view', catchup=false, enabled=is_production()) }}
{{ materialization_target_table(ref('market_history_store')) }}
{{ market_versions(ref('markets_store')) }}
{{ pinned_settings() }}
