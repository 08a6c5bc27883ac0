with source as (

    select * from {{ final(source('polymarket_raw', 'market_prices')) }}

),

renamed as (

    select
        ---------- ids
        token_id,

        ---------- numbers
        bid,
        ask,
        mid,
        spread,

        ---------- times
        observed_at,

        ---------- bookkeeping
        load_id
    from source

)

select * from renamed
