{{ config(materialized='materialized_view', catchup=false, enabled=is_production()) }}
{{ materialization_target_table(ref('events_store')) }}
{{ events_from_payload() }}
{{ pinned_settings() }}
