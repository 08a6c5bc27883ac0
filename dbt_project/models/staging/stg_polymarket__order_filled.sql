{{ order_fills_from_order_filled(ref('base_polymarket__order_filled')) }}
