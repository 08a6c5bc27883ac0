with candles as (

    select * from {{ ref('ohlcv_1m_store') }} final

)

{{ candles_view('candles') }}
