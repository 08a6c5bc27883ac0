-- What `backfill --parquet` has read. A file is known by its name and by its footer, which says how many rows, columns and
-- bytes it has and what lies in them: a file that is replaced by another is read again. A slice is done when its fills are
-- landed and their load stands in the ledger.
create table if not exists ${raw}.parquet_slices ${on_cluster}
(
    file String comment 'path or address, without credentials',
    footer UInt64 comment 'hash of the file''s footer',
    part String comment 'which rows of the file, as a condition; empty: all',
    state LowCardinality(String) comment 'done or failed',
    layout LowCardinality(String) comment 'layout of the file, a file of ingest/sources/parquet/layouts',
    rows UInt64 comment 'rows that were read',
    fills UInt64 comment 'fills that were landed; of copies within one slice at least one',
    dead_letters UInt64 comment 'rows that are no fills, kept in dead_letters',
    other_events UInt64 comment 'logs of other events, which are left out',
    load_id UInt64 comment 'load that brought the fills; 0: there is none',
    problem String comment 'why it failed, or what was wrong with its rows; empty: nothing',
    updated_at DateTime64(6, 'UTC') comment 'when this row was written; the latest row of a key counts'
)
engine = ${replicated}ReplacingMergeTree(updated_at)
order by (file, footer, part)
comment 'Slices of Parquet archives: files or parts of them, and which of them are done';

alter table ${raw}.order_filled ${on_cluster}
comment column source 'goldsky, polygon or parquet';
