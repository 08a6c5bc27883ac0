{{
    days_that_differ(
        ref('trades_by_token'), ref('trades'),
        'trade_id, wallet, side, token_id, match_type, shares, usd, maker_usd'
    )
}}
