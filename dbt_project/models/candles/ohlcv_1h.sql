{{ candles_view(ref('ohlcv_1h_store')) }}
