{{ candles_filled(ref('ohlcv_1d'), 'toStartOfDay', 86400) }}
