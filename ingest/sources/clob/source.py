"""The source of prices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from ingest.page import Stream
from ingest.progress import Progress
from ingest.records import decode_batch
from ingest.sources.base import Finding, LetterKind, Parsed, Ranges, Source
from ingest.sources.clob.settings import PricesSettings
from ingest.sources.desk import Desk
from ingest.tables import MARKET_PRICES

NAME, URL_SETTING = "prices", "POLYMARKET_CLOB_URL"


def _read(desk: Desk, progress: Progress, _: Ranges) -> Sequence[Stream]:
    from ingest.sources.clob.landed import Tracked
    from ingest.sources.clob.reader import LIMITS, Refused, streams

    settings = desk.settings
    return streams(
        settings.polymarket_clob_url,
        progress=progress,
        tokens=desk.kept("tracked tokens", Tracked).tokens(
            desk.landed, settings.tracked_markets, settings.tracked_every_s
        ),
        client=desk.client(NAME, LIMITS, URL_SETTING),
        refused=desk.kept("refused tokens", Refused),
    )


def _probe(desk: Desk) -> Iterable[Finding]:
    """Ask for the prices of a token that does not exist: there is none, or it is refused by its name."""
    from ingest.errors import TokensRefused, WrongShape
    from ingest.sources.clob.reader import refusal
    from ingest.sources.probing import ask

    url = desk.settings.polymarket_clob_url

    def nothing(client: Any) -> str:
        where = {"source": client.source, "url": f"{url}/prices", "request": "no token"}
        body = [{"token_id": "1", "side": "BUY"}]
        try:
            answer = client.post_json(where["url"], body, refusal=refusal(where))
        except TokensRefused as error:
            if "token" not in str(error).partition("[")[0]:
                raise
            return "refuses a token that does not exist, as it should"
        if not isinstance(answer, dict):
            raise WrongShape("the answer is no object of tokens", **where)
        return f"{len(answer)} prices of no token"

    yield ask(desk, "CLOB", url, URL_SETTING, nothing)


def _parse(record: Any, _: datetime) -> Parsed:
    """A row of the time at which the prices were read; a token that was refused makes none."""
    return decode_batch([record], prices_table_of)


def prices_table_of(records: Sequence[Any]) -> Any:
    """See `ingest.sources.clob.records.prices_table`."""
    from ingest.sources.clob.records import prices_table

    return prices_table(records)


PRICES = Source(
    name=NAME,
    title="prices of the busiest open markets",
    tables=(MARKET_PRICES,),
    settings=PricesSettings,
    read=_read,
    probe=_probe,
    letters={NAME: LetterKind(MARKET_PRICES, _parse)},
)
