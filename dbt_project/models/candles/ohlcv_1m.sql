with candles as (

    select * from {{ final(ref('ohlcv_1m_store')) }}

)

{{ candles_view('candles') }}
