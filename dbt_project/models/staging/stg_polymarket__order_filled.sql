{{ order_fills_from_order_filled() }}
