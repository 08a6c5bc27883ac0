-- Who wrote what: every row of the ledger names the writer lock under which it was written, and loads that another run
-- closed than the one that opened them are measured again and again, because their rows may come late.
alter table ${raw}.loads ${on_cluster}
    add column if not exists fence UInt64 default 0
        comment 'number of the writer lock under which this row was written; 0: before there were any',
    add column if not exists opened_under UInt64 default 0
        comment 'number of the writer lock under which the load was last opened; 0: before there were any',
    add column if not exists closed_under UInt64 default 0
        comment 'number of the writer lock under which it was last measured as whole; another than opened_under: rows may come late',
    add column if not exists content UInt64 default 0
        comment 'sum of hashes of its rows that counted when it was last measured; kept where rows may come late, else 0';

alter table ${raw}.loads ${on_cluster}
    comment column if exists state 'loading, loaded, unchecked (blocks are read again before it is settled), settling or settled';
-- dlt names its packages by the clock of the machine that loads. Rows carry an id that is taken from ClickHouse instead:
-- later than every load and settle before it.
create table if not exists ${raw}.load_packages ${on_cluster}
(
    load_id UInt64 comment 'id that the rows carry, and the ledger',
    package_id String comment 'dlt load id, as in _dlt_loads',
    pipeline LowCardinality(String) comment 'dlt pipeline',
    fence UInt64 comment 'number of the writer lock under which it was taken',
    taken_at DateTime64(6, 'UTC') default now64(6, 'UTC') comment 'when, by the clock of ClickHouse'
)
engine = ${replicated}ReplacingMergeTree
order by load_id
comment 'Load ids that were taken, and the dlt package of each';

-- Takes the place of source_reads, whose rows were versioned by the clock of the machine that read.
create table if not exists ${raw}.source_readings ${on_cluster}
(
    source LowCardinality(String) comment 'gamma, goldsky or polygon',
    read_at DateTime64(6, 'UTC') comment 'when it was last read without a failure, by the clock of ClickHouse',
    read_to DateTime64(6, 'UTC') comment 'time up to which its records were read, where it has one; else as read_at',
    caught_up UInt8 comment '1: nothing was left to read',
    reading UInt64 comment 'counts readings of all sources; the greatest of a source counts'
)
engine = ${replicated}ReplacingMergeTree(reading)
order by source
comment 'The last reading of each source that went well';

alter table ${raw}.source_reads ${on_cluster}
    modify comment 'Readings before source_readings took its place; not written any more';

alter table ${raw}.model_deployments ${on_cluster}
    add column if not exists relations Array(String) default [] comment 'every table and view that dbt built';

-- dbt replaces a table by a new one at the end of a full refresh. What was settled into the old one meanwhile is settled again,
-- once a run sees that the table is another.
create table if not exists ${raw}.settled_tables ${on_cluster}
(
    name String comment 'table of the models into which loads are settled',
    uuid UUID comment 'the table that was there when a run last looked',
    noted_at DateTime64(6, 'UTC') comment 'when this row was written, by the clock of ClickHouse or later than the row before it'
)
engine = ${replicated}ReplacingMergeTree(noted_at)
order by name
comment 'The tables into which loads were settled, to notice when one is replaced';
