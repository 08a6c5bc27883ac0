"""V1 fills stand under one of two identities: with their place in the block, or without, as in Goldsky's archive.

Their keys differ, so a fill that lands under both stands twice. Each way to land V1 asks here first, for whole days (UTC);
`backfill --parquet --replace-days` moves days from one identity to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client

from ingest.sources.parquet import NAME as PARQUET
from ingest.tables import ORDER_FILLED, V1_WITH_PLACE, V1_WITHOUT_PLACE

DAY_S = 86_400
Span = tuple[int, int]  # unix seconds, both inclusive


@dataclass(frozen=True)
class Identity:
    """One of the two.

    Attributes:
        condition: on rows of `order_filled` that have it.
        title: for people.
    """

    condition: str
    title: str


WITH_PLACE = Identity(V1_WITH_PLACE, "V1 fills with log index (chain, Parquet)")
WITHOUT_PLACE = Identity(V1_WITHOUT_PLACE, "V1 fills without log index (Goldsky, Parquet)")


def other_than(identity: Identity) -> Identity:
    """The other one."""
    return WITHOUT_PLACE if identity is WITH_PLACE else WITH_PLACE


def whole_days(span: Span) -> Span:
    """The whole days (UTC) that a span touches."""
    return span[0] // DAY_S * DAY_S, (span[1] // DAY_S + 1) * DAY_S - 1


def days_of(span: Span) -> tuple[str, str]:
    """The first and the last day (UTC) of a span, as texts."""
    first, last = (f"{datetime.fromtimestamp(each, UTC):%Y-%m-%d}" for each in span)
    return first, last


def any_stands(client: Client, raw: str, identity: Identity) -> bool:
    """Whether any fill may stand under an identity, those taken back included; a look at two small columns."""
    table = f"{raw}.{ORDER_FILLED.name}"
    if not client.command(f"exists table {table}"):
        return False
    return bool(
        client.query(f"select 1 from {table} where {identity.condition} limit 1").result_rows
    )


def stands(
    client: Client, raw: str, identity: Identity, spans: Sequence[Span], most: int = 0
) -> list[str]:
    """Days of these spans, as texts, on which fills stand under an identity.

    Args:
        most: how many days are enough, whichever they are, which is found sooner; 0: all, in order.
    """
    if not spans or not any_stands(client, raw, identity):
        return []
    within = " or ".join(f"timestamp between {first} and {last}" for first, last in spans)
    rows = client.query(
        f"select distinct toString(toDate(timestamp, 'UTC')) as day from {raw}.{ORDER_FILLED.name} final"
        f" where {identity.condition} and ({within}) {f'limit {most}' if most else 'order by day'}"
    ).result_rows
    return [day for (day,) in rows]


def withdraw(
    client: Client, raw: str, identity: Identity, load_id: int, span: Span, is_held: str
) -> None:
    """Take back the fills of an identity that a load has brought under the other one, as rows of that load.

    They are rows that say that the fill is deleted, as after a reorganisation: whatever is derived follows when the load is
    settled. Fills that the load has not brought stay.

    Args:
        span: first and last second of the load's V1 fills.
        is_held: condition that the statement writes under.
    """
    columns = ORDER_FILLED.schema.names
    constants = {"is_deleted": "1", "load_id": str(load_id)}
    values = ", ".join(constants.get(name, f"old.{name}") for name in columns)
    within = f"timestamp between {span[0]} and {span[1]}"
    fill = "sipHash128(timestamp, tx_hash, order_hash)"
    table = f"{raw}.{ORDER_FILLED.name}"
    client.command(
        f"insert into {table} ({', '.join(columns)}) select {values} from ("
        f"select * from {table} final where {identity.condition} and {within}"
        f" and {fill} in (select {fill} from {table} where load_id = {load_id} and {within}"
        f" and is_deleted = 0 and {other_than(identity).condition})) as old where {is_held}"
    )


def withdraw_other(client: Client, raw: str, load_id: int, is_held: str) -> None:
    """Take back the V1 fills that stand under the other identity than a load of an archive has brought them under."""
    for identity in (WITH_PLACE, WITHOUT_PLACE):
        fills, first, last = client.query(
            f"select count(), min(timestamp), max(timestamp) from {raw}.{ORDER_FILLED.name} where load_id = {load_id}"
            f" and source = '{PARQUET}' and is_deleted = 0 and {identity.condition}"
        ).result_rows[0]
        if fills:
            withdraw(client, raw, other_than(identity), load_id, span_of(first, last), is_held)


def show_days(days: Sequence[str]) -> str:
    """Days for a message: the first, the last and how many."""
    if len(days) == 1:
        return days[0]
    return f"{len(days)} days from {days[0]} to {days[-1]}"


def span_of(first: datetime, last: datetime) -> Span:
    """Two moments, UTC, as a span."""
    return tuple(int(each.replace(tzinfo=UTC).timestamp()) for each in (first, last))
