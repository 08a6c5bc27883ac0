{{ candles_filled(ref('ohlcv_1h'), 'toStartOfHour', 3600) }}
