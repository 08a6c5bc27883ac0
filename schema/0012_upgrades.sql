-- What a later version of the models needs to know of the stores that an earlier one has filled.

-- Versions of the models count up, so that older code sees that it is older.
alter table ${raw}.model_deployments ${on_cluster}
    add column if not exists models_version UInt32 default 0
        comment 'MODELS_VERSION of the code that deployed it; 0: before they were counted';

create table if not exists ${raw}.deployed_stores ${on_cluster}
(
    name String comment 'table of the models',
    rule String comment 'SHA-256 over the SQL that fills it from raw, and over that of every model it reads',
    deployed_at DateTime64(6, 'UTC') comment 'when this row was written, by the clock of ClickHouse or later than the row before it'
)
engine = ${replicated}ReplacingMergeTree(deployed_at)
order by name
comment 'By which rule each store is filled; a store that is not here was filled before rules were kept';

-- A store whose key or types change is filled beside the old one, part by part.
create table if not exists ${raw}.filled_parts ${on_cluster}
(
    target UUID comment 'the new table',
    part String comment 'what was filled: a time range, or a share of the ids',
    filled_at DateTime64(6, 'UTC') default now64(6, 'UTC') comment 'when, by the clock of ClickHouse'
)
engine = ${replicated}ReplacingMergeTree(filled_at)
order by (target, part)
comment 'Parts of new stores that are filled already, so that an upgrade that was cut off goes on';

-- A store whose rule or columns change is derived again where it is, part by part, beside the cycles.
create table if not exists ${raw}.owed_slices ${on_cluster}
(
    table_name LowCardinality(String) comment 'landing table',
    from_at DateTime64(6, 'UTC') comment 'first moment of the slice',
    to_at DateTime64(6, 'UTC') comment 'last moment of it, inclusive',
    owed_rows UInt64 comment 'raw rows to derive again; 0: it is done',
    updated_at DateTime64(6, 'UTC') comment 'when this row was written, by the clock of ClickHouse or later than the row before it'
)
engine = ${replicated}ReplacingMergeTree(updated_at)
order by (table_name, from_at, to_at)
comment 'Time ranges that still hold what an earlier version of the models derived';
