-- When Gamma says that a record was updated, so that a page out of a cache does not replace a newer one. ClickHouse takes
-- it from the payload as a row is inserted, and in the background from the rows that are here already; until then it is
-- computed where it is read. Zeros in Go's way (the year 1) are no time.
alter table ${raw}.markets ${on_cluster}
add column if not exists updated_at Nullable(DateTime64(6, 'UTC'))
materialized if(
    parseDateTime64BestEffortOrNull(JSONExtractString(payload, 'updatedAt'), 6, 'UTC') > toDateTime64(0, 6, 'UTC'),
    parseDateTime64BestEffortOrNull(JSONExtractString(payload, 'updatedAt'), 6, 'UTC'),
    null
)
comment 'updatedAt of the payload; null if it says none'
codec(Delta(8), ZSTD(1));

alter table ${raw}.markets ${on_cluster} materialize column updated_at;

alter table ${raw}.events ${on_cluster}
add column if not exists updated_at Nullable(DateTime64(6, 'UTC'))
materialized if(
    parseDateTime64BestEffortOrNull(JSONExtractString(payload, 'updatedAt'), 6, 'UTC') > toDateTime64(0, 6, 'UTC'),
    parseDateTime64BestEffortOrNull(JSONExtractString(payload, 'updatedAt'), 6, 'UTC'),
    null
)
comment 'updatedAt of the payload; null if it says none'
codec(Delta(8), ZSTD(1));

alter table ${raw}.events ${on_cluster} materialize column updated_at;
