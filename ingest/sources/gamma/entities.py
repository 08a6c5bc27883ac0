"""Gamma records as landing rows: what markets and events are called, what of them is stored, and as which version.

Pure functions. A record needs an `id`; everything else of it may come and go, because the payload
is kept whole and staging gives it types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa

from ingest.records import NO_LOAD, BadRecord, canonical_json, content_hash
from ingest.tables import EVENTS, MARKETS, Table

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
CACHE_AT_MOST_US = 24 * 3600 * 10**6  # no page of a cache is older


@dataclass(frozen=True)
class Entity:
    """A kind of record: its landing table, endpoint and the list of others nested in it."""

    landing: Table
    path: str
    page_limit: int  # more is cut to this without a word
    nested: str

    @property
    def table(self) -> str:
        """Name of the landing table, and of the list in an answer."""
        return self.landing.name

    @property
    def id_column(self) -> str:
        """Name of the landing table's id."""
        return self.landing.id_column


MARKET = Entity(MARKETS, "/markets/keyset", 100, "events")
EVENT = Entity(EVENTS, "/events/keyset", 100, "markets")  # 500 before September 2026


@dataclass(frozen=True, slots=True)
class Version:
    """The current version of a record that is stored.

    Attributes:
        content_hash: of its payload, see `ingest.records`.
        fetched_us: time that orders the versions of a record, microseconds since 1970; the greatest is current.
        updated_us: when Gamma says that it was updated, microseconds since 1970; None if it does not say.
    """

    content_hash: int
    fetched_us: int
    updated_us: int | None = None


def is_outdated(version: Version, current: Version, now_us: int) -> bool:
    """Whether what was just read is older than the current version, so that it must not replace it.

    Gamma's pages come out of a cache and may be minutes old (`Age: 219` was reported). A version that was stored
    longer ago than `CACHE_AT_MOST_US` is replaced by whatever is read, and a time of its own that has not come yet
    is not believed: neither can keep a record from changing for good.
    """
    if version.updated_us is None or current.updated_us is None:
        return False
    if version.updated_us >= current.updated_us:
        return False
    is_absurd = current.updated_us > now_us + CACHE_AT_MOST_US
    return not is_absurd and now_us - current.fetched_us < CACHE_AT_MOST_US


def next_version_us(read_us: int, current: Version | None) -> int:
    """`fetched_at` of a record that was just read, microseconds since 1970.

    It is after that of the stored version, whatever the clock says.
    """
    return read_us if current is None else max(read_us, current.fetched_us + 1)


def past_version_us(read_us: int, updated_us: int | None, current: Version | None) -> int:
    """`fetched_at` of a record that was read long ago (a dead letter), microseconds since 1970.

    That is its own time, unless Gamma's times say that it belongs on the other side of the stored version.
    """
    if current is None or updated_us is None or current.updated_us is None:
        return read_us
    if updated_us > current.updated_us:
        return max(read_us, current.fetched_us + 1)
    if updated_us < current.updated_us:
        return min(read_us, current.fetched_us - 1)
    return read_us


def among_versions(rows: pa.Table, current: Mapping[str, Version]) -> pa.Table:
    """Landing rows that were read long ago, each in its place by Gamma's own times; see `past_version_us`.

    The content of the current version gets that one's time, so landing it again changes nothing.

    Args:
        current: the current version by id, for those that are stored.
    """
    times, versions = [], dict(current)
    columns = (rows.column(name).to_pylist() for name in rows.schema.names[:2])
    reads = rows.column("fetched_at").cast(pa.int64()).to_pylist()
    payloads = rows.column("payload").to_pylist()
    for key, value, read_us, payload in zip(*columns, reads, payloads, strict=True):
        version, stored = version_of(value, read_us, payload), versions.get(key)
        if stored and stored.content_hash == value:
            at = stored.fetched_us
        else:
            at = past_version_us(read_us, version.updated_us, stored)
        times.append(at)
        if stored is None or at > stored.fetched_us:
            versions[key] = replace(version, fetched_us=at)
    return with_fetched_at(rows, times)


def version_of(value: int, read_us: int, payload: str) -> Version:
    """The version that a landing row is, by its content hash, time of reading and payload."""
    return Version(value, read_us, micros_of(orjson.loads(payload), "updatedAt"))


def micros_of(record: Any, field: str) -> int | None:
    """A time of a record in microseconds since 1970; None if there is none: absent, no time, or a zero as 0001-01-01.

    Gamma writes 2026-07-24T00:00:16.1Z and 2026-07-24 00:00:16+00. It writes zeros in Go's way, as the year 1.
    """
    value = record.get(field) if isinstance(record, dict) else None
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    micros = (moment - EPOCH) // MICROSECOND
    return micros if micros > 0 else None


def at_micros(micros: int) -> datetime:
    """The time so many microseconds after 1970, UTC."""
    return EPOCH + micros * MICROSECOND


def with_fetched_at(rows: pa.Table, times_us: Sequence[int]) -> pa.Table:
    """Landing rows with other times of reading, microseconds since 1970."""
    field = rows.schema.field("fetched_at")
    times = pa.array(times_us, pa.int64()).cast(field.type)
    return rows.set_column(rows.schema.get_field_index("fetched_at"), field, times)


def entities_table(entity: Entity, records: Sequence[Any], *, fetched_at: datetime) -> pa.Table:
    """Landing rows of the records, one each, of no load yet.

    Raises:
        BadRecord: one is not an object, or has no id.
    """
    payloads = [canonical_json(_cut(record, entity.nested)) for record in records]
    count = len(records)
    return pa.table(
        [
            [_id(record) for record in records],
            pa.array([content_hash(payload) for payload in payloads], pa.uint64()),
            pa.array([fetched_at] * count, entity.landing.schema.field("fetched_at").type),
            pa.array([int(record.get("closed") is True) for record in records], pa.uint8()),
            [payload.decode() for payload in payloads],
            pa.array([NO_LOAD] * count, pa.uint64()),
        ],
        schema=entity.landing.schema,
    )


def _cut(record: Any, nested: str) -> dict[str, Any]:
    """The record with its nested records cut down to what names them."""
    if not isinstance(record, dict):
        raise BadRecord("not_an_object", f"a {type(record).__name__}, not an object")
    others = record.get(nested)
    if not isinstance(others, list):
        return record
    return record | {nested: [_name_of(other) for other in others]}


def _name_of(record: Any) -> Any:
    """Id and slug of a nested record: they never change, so the record around it does not either."""
    if not isinstance(record, dict) or "id" not in record:
        return record
    return {key: record[key] for key in ("id", "slug") if key in record}


def _id(record: dict[str, Any]) -> str:
    value = record.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise BadRecord("missing_field", "no id")
    return value
