-- What `backfill` was asked to read, in slices. Whoever holds the writer lock works those that are requested; a slice is
-- done when all of its fills are landed and their loads stand in the ledger. Until then it is read again from its start,
-- which is harmless: landed fills are keyed by what they are.
create table if not exists ${raw}.backfill_slices ${on_cluster}
(
    source LowCardinality(String) comment 'goldsky or polygon',
    from_at DateTime('UTC') comment 'first second of the slice, by block time',
    to_at DateTime('UTC') comment 'first second after it',
    state LowCardinality(String) comment 'requested, done or cancelled',
    requested_at DateTime64(6, 'UTC') comment 'when it was last asked for',
    done_at DateTime64(6, 'UTC') comment 'when it was done; 1970: it is not',
    fills UInt64 comment 'fills that it held when it was read',
    load_id UInt64 comment 'load that brought the last of them; 0: it held none, or is not done',
    problem String comment 'why it could not be read the last time; empty: it could, or was not tried',
    updated_at DateTime64(6, 'UTC') comment 'when this row was written; the latest row of a key counts'
)
engine = ${replicated}ReplacingMergeTree(updated_at)
order by (source, from_at, to_at)
comment 'Slices of backfills: half-open time ranges of one source, and which of them are done';
