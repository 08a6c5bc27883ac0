{{ candles_view(ref('int_ohlcv_1h_deduplicated')) }}
