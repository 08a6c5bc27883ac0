"""Gamma records as landing rows: what markets and events are called, and what of them is stored.

Pure functions. A record needs an `id`; everything else of it may come and go, because the payload
is kept whole and staging gives it types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from ingest.records import EVENTS, MARKETS, NO_LOAD, BadRecord, canonical_json, content_hash


@dataclass(frozen=True)
class Entity:
    """A kind of record: its landing table, endpoint and the list of others nested in it."""

    table: str
    path: str
    page_limit: int  # more is cut to this without a word
    nested: str
    schema: pa.Schema

    @property
    def id_column(self) -> str:
        """Name of the landing table's id."""
        return self.schema.names[0]


MARKET = Entity("markets", "/markets/keyset", 100, "events", MARKETS)
EVENT = Entity("events", "/events/keyset", 500, "markets", EVENTS)


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
            pa.array([fetched_at] * count, entity.schema.field("fetched_at").type),
            pa.array([int(record.get("closed") is True) for record in records], pa.uint8()),
            [payload.decode() for payload in payloads],
            pa.array([NO_LOAD] * count, pa.uint64()),
        ],
        schema=entity.schema,
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
