{{
    days_that_differ(
        ref('fills_by_wallet'), ref('wallet_fills'),
        'fill_id, wallet, role, side, token_id, shares_change, usd_change, fee_usd'
    )
}}
