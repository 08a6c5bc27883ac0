-- Markets and events as Gamma returned them: a few key columns and the whole payload, so that a field that is added,
-- dropped or retyped upstream never breaks a load. One row per change seen: a record that goes back to what it was is
-- a change too, so the time belongs to the key, and a load that is repeated brings the same times. The copies of one
-- market lie next to each other, where ZSTD finds them nearly free.
create table if not exists ${raw}.markets ${on_cluster}
(
    market_id String comment 'Gamma id' codec(ZSTD(1)),
    content_hash UInt64 comment 'first 8 bytes of the BLAKE2b hash of the payload',
    fetched_at DateTime64(6, 'UTC') comment 'when this content was read; the latest row is the current one',
    closed UInt8 comment '1: closed, as the payload says',
    payload String comment 'the market as JSON; nested events are cut down to id and slug' codec(ZSTD(3)),
    load_id UInt64 comment 'load that brought it' codec(Delta(8), ZSTD(1)),
    index ix_load load_id type minmax granularity 1
)
engine = ${replicated}ReplacingMergeTree
order by (market_id, fetched_at, content_hash)
comment 'Markets as returned by Gamma, one row per change seen';

create table if not exists ${raw}.events ${on_cluster}
(
    event_id String comment 'Gamma id' codec(ZSTD(1)),
    content_hash UInt64 comment 'first 8 bytes of the BLAKE2b hash of the payload',
    fetched_at DateTime64(6, 'UTC') comment 'when this content was read; the latest row is the current one',
    closed UInt8 comment '1: closed, as the payload says',
    payload String comment 'the event as JSON; nested markets are cut down to id and slug' codec(ZSTD(3)),
    load_id UInt64 comment 'load that brought it' codec(Delta(8), ZSTD(1)),
    index ix_load load_id type minmax granularity 1
)
engine = ${replicated}ReplacingMergeTree
order by (event_id, fetched_at, content_hash)
comment 'Events as returned by Gamma, one row per change seen';
