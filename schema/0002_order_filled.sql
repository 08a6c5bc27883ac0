-- OrderFilled as emitted, V1 and V2, from the archive and from the chain.
--
-- Read by time range (settling, rebuilding, verifying), so the key starts with time.
-- Hashes are incompressible, so ZSTD(1) is enough; ids repeat, so they are LowCardinality. The
-- minmax index finds the rows of the newest load without a range.
create table if not exists ${raw}.order_filled ${on_cluster}
(
    timestamp DateTime('UTC') comment 'block time' codec(Delta(4), ZSTD(1)),
    block_number UInt64 comment 'block; 0 where the source does not say (archive)' codec(Delta(8), ZSTD(1)),
    log_index UInt32 comment 'position of the log in its block; 0 where the source does not say' codec(ZSTD(1)),
    tx_hash String comment 'transaction hash, 0x and 64 lower-case hex digits' codec(ZSTD(1)),
    order_hash String comment 'hash of the order that was filled' codec(ZSTD(1)),
    contract_version LowCardinality(String) comment 'v1 or v2: generation of the exchange contract',
    exchange LowCardinality(String) comment 'exchange contract that emitted it; empty where the source does not say',
    maker String comment 'owner of the order that was filled (a proxy wallet)' codec(ZSTD(1)),
    taker String comment 'counterparty; the exchange contract itself on a taker leg' codec(ZSTD(1)),
    maker_asset_id LowCardinality(String) comment 'v1: asset given by the order, 0 is collateral; empty for v2',
    taker_asset_id LowCardinality(String) comment 'v1: asset received by the order, 0 is collateral; empty for v2',
    side LowCardinality(String) comment 'v2: BUY or SELL, side of the order; empty for v1',
    token_id LowCardinality(String) comment 'v2: outcome token, decimal; empty for v1',
    maker_amount UInt64 comment 'given by the order, 1e-6 units (shares or collateral)' codec(ZSTD(1)),
    taker_amount UInt64 comment 'received by the order, 1e-6 units (shares or collateral)' codec(ZSTD(1)),
    fee UInt64 comment '1e-6 units; v1: of the asset received, v2: of collateral' codec(ZSTD(1)),
    builder String comment 'v2: builder code; empty if none' codec(ZSTD(1)),
    source LowCardinality(String) comment 'goldsky or polygon',
    is_deleted UInt8 default 0 comment '1: taken back, its block left the chain (reorganisation)',
    load_id UInt64 comment 'load that brought it; the newest counts' codec(Delta(8), ZSTD(1)),
    index ix_load load_id type minmax granularity 1
)
engine = ${replicated}ReplacingMergeTree(load_id, is_deleted)
partition by toYYYYMM(timestamp)
order by (timestamp, tx_hash, log_index, order_hash)
comment 'OrderFilled events as emitted by the exchanges, one row per event';
