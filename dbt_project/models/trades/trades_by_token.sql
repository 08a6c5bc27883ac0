{{ trades_with_markets(final(ref('trades_by_token_store'))) }}
