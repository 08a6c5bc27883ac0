{{ candles_view(ref('ohlcv_1m_store')) }}
