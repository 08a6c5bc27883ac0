"""The source of markets and events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from ingest.page import Stream
from ingest.progress import Progress
from ingest.records import decode_batch
from ingest.sources.base import Finding, LetterKind, Parsed, Ranges, Source
from ingest.sources.desk import Desk
from ingest.sources.gamma.entities import EVENT, MARKET, Entity, entities_table
from ingest.sources.gamma.settings import GammaSettings
from ingest.tables import EVENTS, MARKETS

NAME, URL_SETTING = "gamma", "POLYMARKET_GAMMA_URL"


def _read(desk: Desk, progress: Progress, _: Ranges) -> Sequence[Stream]:
    from ingest.sources.gamma import landed
    from ingest.sources.gamma.reader import LIMITS, streams

    settings = desk.settings
    return streams(
        settings.polymarket_gamma_url,
        progress=progress,
        client=desk.client(NAME, LIMITS, URL_SETTING),
        known_versions=landed.known_versions(desk.landed),
        known_open=landed.known_open(desk.landed),
        tokens=landed.unknown_tokens(desk.landed),
        positions=landed.unknown_tokens(desk.landed, positions=True),
        open_cadence=settings.gamma_open_every_s,
        closed_cadence=settings.gamma_closed_every_s,
    )


def _probe(desk: Desk) -> Iterable[Finding]:
    from ingest.sources.probing import ask, records

    url = desk.settings.polymarket_gamma_url

    def markets(client: Any) -> str:
        found = records(client, f"{url}/markets/keyset", "markets", [("limit", "1")])
        return f"{found} market read"

    yield ask(desk, "Gamma", url, URL_SETTING, markets)


def _parser(entity: Entity) -> Callable[[Any, datetime], Parsed]:
    """A market or event of a letter is a version of the time at which it was read: a newer one stays the current one."""

    def parse(record: Any, seen_at: datetime) -> Parsed:
        return decode_batch([record], lambda rows: entities_table(entity, rows, fetched_at=seen_at))

    return parse


GAMMA = Source(
    name=NAME,
    title="markets and events",
    tables=(MARKETS, EVENTS),
    settings=GammaSettings,
    read=_read,
    probe=_probe,
    letters={
        f"{NAME}_{entity.table}": LetterKind(entity.landing, _parser(entity))
        for entity in (MARKET, EVENT)
    },
    looks_up_tokens=True,
)
