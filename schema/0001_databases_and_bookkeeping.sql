-- The two databases, and the tables in which a run keeps its own books.

-- The landing database was made for the writer lock and the table of migrations, before any file of this folder.
create database if not exists ${raw} ${on_cluster};
alter database ${raw} ${on_cluster}
modify comment 'Polymarket ELT: raw records as loaded, dead letters, load ledger and dlt tables';

create database if not exists ${models} ${on_cluster}
comment 'Polymarket ELT: the models (fills, trades, candles, markets, events)';

-- One row per load and landing table. A load is `loading` while dlt writes it, `loaded` once every row is in,
-- `settling` while the models derived from it are recomputed and `settled` when they agree with it. A crash leaves
-- a load in one of the first three states, and doing it again is harmless.
create table if not exists ${raw}.loads ${on_cluster}
(
    load_id UInt64 comment 'dlt load id in microseconds since 1970 (UTC); rebuilds take the next free one',
    table_name LowCardinality(String) comment 'landing table',
    state LowCardinality(String) comment 'loading, loaded, settling or settled',
    is_rebuild UInt8 comment '1: everything between from_at and to_at is recomputed, not only the rows of this load',
    loaded_rows UInt64 comment 'rows of this load that stand in the landing table',
    from_at DateTime64(6, 'UTC') comment 'time of the earliest row (first fill, first fetch)',
    to_at DateTime64(6, 'UTC') comment 'time of the latest row, inclusive',
    settle_id UInt64 comment 'the settle that last took this load up, microseconds since 1970 (UTC); 0: none yet',
    updated_at DateTime64(6, 'UTC') comment 'when this row was written; the latest row of a key counts'
)
engine = ${replicated}ReplacingMergeTree(updated_at)
order by (table_name, load_id)
comment 'Ledger of loads: which of them every derived table already reflects';

-- What a source could not parse. One row per record and load, so that a retried load changes no count.
create table if not exists ${raw}.dead_letter_sightings ${on_cluster}
(
    source LowCardinality(String) comment 'resource that read it: gamma_markets, gamma_events, goldsky, polygon',
    reason LowCardinality(String) comment 'short code of what was wrong',
    payload_hash UInt64 comment 'first 8 bytes of the BLAKE2b hash of the payload',
    detail String comment 'what was wrong, in one sentence' codec(ZSTD(1)),
    payload String comment 'the record as received' codec(ZSTD(3)),
    seen_at DateTime64(6, 'UTC') comment 'when it was read',
    load_id UInt64 comment 'load that brought it'
)
engine = ${replicated}ReplacingMergeTree(seen_at)
order by (source, reason, payload_hash, load_id)
comment 'Records that could not be parsed, once per load';

create or replace view ${raw}.dead_letters ${on_cluster}
(
    source LowCardinality(String) comment 'resource that read it: gamma_markets, gamma_events, goldsky, polygon',
    reason LowCardinality(String) comment 'short code of what was wrong',
    payload_hash UInt64 comment 'first 8 bytes of the BLAKE2b hash of the payload',
    detail String comment 'what was wrong the last time, in one sentence',
    payload String comment 'the record as received',
    first_seen_at DateTime64(6, 'UTC') comment 'when it was first read',
    last_seen_at DateTime64(6, 'UTC') comment 'when it was last read',
    times_seen UInt64 comment 'number of loads that read it'
)
as
select
    source,
    reason,
    payload_hash,
    argMax(detail, seen_at) as detail,
    argMax(payload, seen_at) as payload,
    min(seen_at) as first_seen_at,
    max(seen_at) as last_seen_at,
    uniqExact(load_id) as times_seen
from ${raw}.dead_letter_sightings
group by source, reason, payload_hash
comment 'Records that could not be parsed: one row per distinct record and reason';
