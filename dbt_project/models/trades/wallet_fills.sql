{{ wallet_fills_with_markets(ref('int_wallet_fills')) }}
