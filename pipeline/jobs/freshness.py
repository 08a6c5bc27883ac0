"""How old what is loaded may be: a source that stopped is an error, not an idle source.

A cycle writes down when it last read each source without a failure, and how far. From that, and from what is not
settled yet, `judge` says what is stale. An archive that was read to its end is complete, and never stale again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client

from ingest.sources.base import Source
from pipeline.settings import Settings

FRESH, STALE, NEVER, COMPLETE = "fresh", "stale", "never read", "complete"
# A time that has not come yet says nothing about how fresh anything is: a clock is or was wrong.
AHEAD = "in the future"
AHEAD_S = 60.0
SETTLING = "settling"


@dataclass(frozen=True)
class Read:
    """The last reading of a source that went well.

    Attributes:
        read_at: when it was, UTC.
        read_to: time up to which its records were read, UTC; the same where records have no time to go by.
        caught_up: nothing was left to read.
    """

    read_at: datetime
    read_to: datetime
    caught_up: bool


@dataclass(frozen=True)
class Freshness:
    """How fresh one source is, or `settling`, which stands for everything that is derived.

    Attributes:
        source: name of a source, or settling.
        state: fresh, stale, never read, in the future (a clock is or was wrong), or complete (an archive that was read
            to its end).
        read_to: time up to which it was read, ISO, UTC; None: never, or nothing is left to settle.
        lag_s: seconds since then, or since the last good reading where that is what counts.
        max_lag_s: the lag that is expected at most.
    """

    source: str
    state: str
    read_to: str | None
    lag_s: float | None
    max_lag_s: float

    @property
    def is_stale(self) -> bool:
        """True if somebody should look at it."""
        return self.state in (STALE, NEVER, AHEAD)


def judge(
    settings: Settings, reads: dict[str, Read], unsettled_since: datetime | None, now: datetime
) -> list[Freshness]:
    """How fresh each source of a cycle is, and what is derived.

    The lag of the chain is the age of the newest block read. Others have no such time, or are old by nature: theirs is
    the time since they were last read without a failure.

    Args:
        unsettled_since: when the oldest load came that is not settled; None: all are.
        now: by ClickHouse's clock, which all of these times are of.
    """
    answer = [
        _judge(source, reads.get(source.name), source.max_lag_s(settings), now)
        for source in settings.active_sources
    ]
    lag_s = 0.0 if unsettled_since is None else _seconds(unsettled_since, now)
    state = _state(lag_s, settings.polygon_max_lag_s)
    since = None if unsettled_since is None else _iso(unsettled_since)
    return [*answer, Freshness(SETTLING, state, since, lag_s, settings.polygon_max_lag_s)]


def _judge(source: Source, read: Read | None, limit_s: float, now: datetime) -> Freshness:
    if read is None:
        return Freshness(source.name, NEVER, None, None, limit_s)
    lag_s = _seconds(read.read_to if source.lag_of_newest else read.read_at, now)
    state = _state(lag_s, limit_s)
    if _seconds(read.read_at, now) < -AHEAD_S:
        state = AHEAD
    if source.ends and read.caught_up:
        state = COMPLETE
    return Freshness(source.name, state, _iso(read.read_to), lag_s, limit_s)


def _state(lag_s: float, limit_s: float) -> str:
    if lag_s < -AHEAD_S:
        return AHEAD
    return STALE if lag_s > limit_s else FRESH


def note_read(
    client: Client,
    raw_database: str,
    source: str,
    watermark: int,
    caught_up: bool,
    is_held: str = "1",
) -> None:
    """Write down that a source was just read without a failure, at the time that ClickHouse's clock shows.

    Args:
        watermark: unix seconds up to which its records were read; 0: not known.
        is_held: a condition for ClickHouse: that this run may write still.
    """
    now, reading = client.query(
        f"select toUnixTimestamp64Micro(now64(6)), max(reading) + 1 from {raw_database}.source_readings"
    ).result_rows[0]
    client.command(
        f"insert into {raw_database}.source_readings (source, read_at, read_to, caught_up, reading)"
        " select {source:String}, fromUnixTimestamp64Micro({now:Int64}, 'UTC'),"
        " fromUnixTimestamp64Micro({read_to:Int64}, 'UTC'), {caught_up:UInt8}, {reading:UInt64}"
        f" where {is_held}",
        parameters={
            "source": source,
            "now": now,
            "read_to": watermark * 1_000_000 if watermark else now,
            "caught_up": int(caught_up),
            "reading": reading,
        },
    )


def last_reads(client: Client, raw_database: str) -> dict[str, Read]:
    """The last good reading of each source that had one."""
    rows: Sequence[Sequence] = client.query(f"""
        select source, read_at, read_to, caught_up
        from (
            select source, read_at, read_to, caught_up, reading from {raw_database}.source_readings final
            union all
            select source, read_at, read_to, caught_up, 0 as reading from {raw_database}.source_reads final
        )
        order by reading desc
        limit 1 by source
    """).result_rows
    return {
        source: Read(read_at.replace(tzinfo=UTC), read_to.replace(tzinfo=UTC), bool(caught_up))
        for source, read_at, read_to, caught_up in rows
    }


def _seconds(moment: datetime, now: datetime) -> float:
    return round((now - moment).total_seconds(), 1)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
