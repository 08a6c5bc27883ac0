{{ candles_filled(ref('ohlcv_1m'), 'toStartOfMinute', 60) }}
