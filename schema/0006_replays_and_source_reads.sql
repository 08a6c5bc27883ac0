-- What `replay` did, and when each source was last read.

-- What `replay` has taken off the list: the sightings stay, and the row stands in its landing table.
create table if not exists ${raw}.dead_letter_replays ${on_cluster}
(
    source LowCardinality(String) comment 'resource that read it',
    reason LowCardinality(String) comment 'short code of what was wrong',
    payload_hash UInt64 comment 'the same as in the sightings',
    load_id UInt64 comment 'load that brought its row; 0: the row was landed before, or is derived by a rebuild',
    replayed_at DateTime64(6, 'UTC') comment 'when'
)
engine = ${replicated}ReplacingMergeTree(replayed_at)
order by (source, reason, payload_hash)
comment 'Records that could not be parsed once and are rows now';

create or replace view ${raw}.dead_letters ${on_cluster}
(
    source LowCardinality(String) comment 'resource that read it: gamma_markets, gamma_events, goldsky, polygon',
    reason LowCardinality(String) comment 'short code of what was wrong',
    payload_hash UInt64 comment 'names the record together with source and reason',
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
where (source, reason, payload_hash) not in (select source, reason, payload_hash from ${raw}.dead_letter_replays)
group by source, reason, payload_hash
comment 'Records that could not be parsed and were not replayed: one row per distinct record and reason';

-- When a cycle last read each source, and how far: what `status` calls fresh or stale.
create table if not exists ${raw}.source_reads ${on_cluster}
(
    source LowCardinality(String) comment 'gamma, goldsky or polygon',
    read_at DateTime64(6, 'UTC') comment 'when it was last read without a failure',
    read_to DateTime64(6, 'UTC') comment 'time up to which its records were read, where it has one; else as read_at',
    caught_up UInt8 comment '1: nothing was left to read'
)
engine = ${replicated}ReplacingMergeTree(read_at)
order by source
comment 'The last reading of each source that went well';
