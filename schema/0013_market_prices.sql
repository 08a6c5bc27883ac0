-- What the order books quoted, each time they were asked. Nothing but the readings says what a price was, so a reading is a
-- row, and one that is loaded twice is one row. About 1.4 million rows a day with the default settings; a token's readings
-- lie next to each other in time, where most repeat the one before.
create table if not exists ${raw}.market_prices ${on_cluster}
(
    token_id LowCardinality(String) comment 'outcome token, decimal' codec(ZSTD(1)),
    observed_at DateTime64(6, 'UTC') comment 'when the last answer of the reading came, by the clock of the machine that asked'
        codec(Delta(8), ZSTD(1)),
    bid Nullable(Decimal(18, 9)) comment 'best price of an order to buy, in dollars, as the CLOB says; null if it says none'
        codec(ZSTD(1)),
    ask Nullable(Decimal(18, 9)) comment 'best price of an order to sell, in dollars, as the CLOB says; null if it says none'
        codec(ZSTD(1)),
    mid Nullable(Decimal(18, 9)) comment 'midpoint in dollars, as the CLOB says; null if it says none' codec(ZSTD(1)),
    spread Nullable(Decimal(18, 9)) comment 'spread in dollars, as the CLOB says; null if it says none' codec(ZSTD(1)),
    load_id UInt64 comment 'load that brought it' codec(Delta(8), ZSTD(1)),
    index ix_load load_id type minmax granularity 1
)
engine = ${replicated}ReplacingMergeTree
partition by toYYYYMM(observed_at)
order by (token_id, observed_at)
comment 'Prices of outcome tokens as quoted by the CLOB, one row per token and reading';
