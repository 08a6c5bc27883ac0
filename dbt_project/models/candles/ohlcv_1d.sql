{{ candles_view(ref('ohlcv_1d_store')) }}
