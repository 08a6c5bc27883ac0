-- What runs by itself: every job, and each of its runs.
create table if not exists ${raw}.job_runs ${on_cluster}
(
    job LowCardinality(String) comment 'name of the job: a source, `settling`, `backfill`',
    started_at DateTime64(6, 'UTC') comment 'when the run began, by the clock of the machine that ran it',
    ended_at DateTime64(6, 'UTC') comment 'when it ended, by the same clock',
    outcome LowCardinality(String) comment 'done, failed',
    rows UInt64 comment 'rows that it loaded, of all landing tables',
    caught_up UInt8 comment '1: nothing was left to read',
    failures UInt32 comment 'failed runs in a row, this one included; 0: it went well',
    problem String comment 'why it failed, in one sentence; empty: it did not',
    next_at DateTime64(6, 'UTC') comment 'when it is to run next',
    schedule String comment 'cron expression (UTC), or the pause between two runs',
    fence UInt64 comment 'number of the writer lock under which it ran'
)
engine = ${replicated}MergeTree
partition by toYYYYMM(started_at)
order by (job, started_at)
ttl toDateTime(started_at) + interval 90 day
comment 'Runs of jobs, kept for 90 days';

create table if not exists ${raw}.job_states ${on_cluster}
(
    job LowCardinality(String) comment 'name of the job',
    state LowCardinality(String) comment 'running (for a while now) or waiting',
    schedule String comment 'cron expression (UTC), or the pause between two runs',
    started_at DateTime64(6, 'UTC') comment 'when its last run began',
    ended_at DateTime64(6, 'UTC') comment 'when its last run ended; 1970: it has not',
    outcome LowCardinality(String) comment 'done or failed: how its last run ended; empty: it has not',
    rows UInt64 comment 'rows that its last run loaded',
    failures UInt32 comment 'failed runs in a row',
    failing_since DateTime64(6, 'UTC') comment 'when the first of these began; 1970: none failed',
    problem String comment 'why the last run failed; empty: it did not',
    done_at DateTime64(6, 'UTC') comment 'when a run last went well; 1970: never',
    next_at DateTime64(6, 'UTC') comment 'when it is to run next',
    fence UInt64 comment 'number of the writer lock under which it ran',
    noted UInt64 comment 'grows with the lock and with each note under it; the greatest of a job counts'
)
engine = ${replicated}ReplacingMergeTree(noted)
order by job
comment 'What was last noted about each job; read `jobs`';

create or replace view ${raw}.jobs ${on_cluster}
(
    job LowCardinality(String) comment 'name of the job',
    state LowCardinality(String) comment 'running (for a while now) or waiting',
    schedule String comment 'cron expression (UTC), or the pause between two runs',
    started_at DateTime64(6, 'UTC') comment 'when its last run began',
    ended_at DateTime64(6, 'UTC') comment 'when its last run ended; 1970: it has not',
    outcome LowCardinality(String) comment 'done or failed: how its last run ended; empty: it has not',
    rows UInt64 comment 'rows that its last run loaded',
    failures UInt32 comment 'failed runs in a row',
    failing_since DateTime64(6, 'UTC') comment 'when the first of these began; 1970: none failed',
    problem String comment 'why the last run failed; empty: it did not',
    done_at DateTime64(6, 'UTC') comment 'when a run last went well; 1970: never',
    next_at DateTime64(6, 'UTC') comment 'when it is to run next',
    fence UInt64 comment 'number of the writer lock under which it ran'
)
as
select job, state, schedule, started_at, ended_at, outcome, rows, failures, failing_since, problem, done_at, next_at, fence
from ${raw}.job_states final
comment 'Each job as it was last noted';
