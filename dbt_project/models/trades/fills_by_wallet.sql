{%- set fills -%}
(
    select
        *,
        {{ fill_key() }} as fill_id,
        {{ fee_in_usd() }} as fee_usd,
        {{ shares_change() }} as shares_change,
        {{ usd_change() }} as usd_change
    from {{ final(ref('fills_by_wallet_store')) }}
)
{%- endset -%}
{{ wallet_fills_with_markets(fills) }}
