{{ trades_with_markets(ref('int_trades_deduplicated')) }}
