with candles as (

    select * from {{ final(ref('ohlcv_1d_store')) }}

)

{{ candles_view('candles') }}
