with candles as (

    select * from {{ ref('ohlcv_1d_store') }} final

)

{{ candles_view('candles') }}
