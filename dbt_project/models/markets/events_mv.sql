{{ config(materialized='materialized_view', catchup=false) }}
{{ materialization_target_table(ref('events_store')) }}
{{ events_from_payload() }}
{{ pinned_settings() }}
