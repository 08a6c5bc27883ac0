{{ config(materialized='materialized_view', catchup=false, enabled=is_production()) }}
{{ materialization_target_table(ref('order_fills_store')) }}
select
    * except (load_id),
    load_id as version
from ({{ order_fills_from_order_filled(source('polymarket_raw', 'order_filled')) }})
{{ pinned_settings() }}
