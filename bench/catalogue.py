"""Markets and events: how long the first load takes, and a refresh that reads everything and finds a little changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import orjson

from bench.figures import Part
from bench.fills import TOKEN_IDS
from bench.pages import serving
from bench.place import Place, prepared, without_limits
from ingest.records import with_load_id
from ingest.sources.gamma.entities import MARKET, entities_table
from pipeline.derive.settle import settle
from pipeline.jobs.cycle import run_cycle
from pipeline.warehouse.loads import now_us
from pipeline.warehouse.run import Run
from sandbox.world import World

CLOSED = 5  # one in so many
CHANGED = 100  # one in so many, between the first load and the refresh
CREATED = datetime(2026, 5, 1, tzinfo=UTC)
_WORLD = {"now": CREATED, "markets": 40, "matches": 40, "v1_days": 0.1, "v2_days": 0.1}


class CataloguePages:
    """Gamma's keyset listings."""

    def __init__(self, markets: int, events: int, version: int) -> None:
        made = {
            "markets": list(catalogue("markets", markets, version)),
            "events": list(catalogue("events", events, version)),
        }
        self._listings: dict[tuple[str, bool], list[bytes]] = {}
        for name, records in made.items():
            for closed in (False, True):
                mine = [orjson.dumps(x) for x in records if x["closed"] == closed]
                self._listings[name, closed] = mine

    def answer(self, target: str, body: bytes) -> bytes:
        """One page; the cursor is a position."""
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        name = url.path.split("/")[1]
        listing = self._listings[name, query["closed"] == "true"]
        if query.get("ascending") == "false":
            listing = listing[::-1]
        first, count = int(query.get("after_cursor", 0)), int(query["limit"])
        following = first + count
        cursor = b',"next_cursor":"%d"' % following if following < len(listing) else b""
        page = b",".join(listing[first:following])
        return b'{"%s":[%s]%s}' % (name.encode(), page, cursor)


def catalogue(kind: str, count: int, version: int = 0) -> Iterator[dict]:
    """Markets or events as Gamma sends them: payloads of the sandbox, under ids of their own.

    Args:
        kind: markets or events.
        version: above 0 one in a hundred differs from the version before.
    """
    world = World.generate(4, **_WORLD)
    templates = list(getattr(world.gamma, kind).values())
    for number in range(count):
        record = dict(templates[number % len(templates)])
        closed = number % CLOSED == 0
        record |= {
            "id": str(10_000_000 + number),
            "slug": f"{kind}-{number}",
            "closed": closed,
            "createdAt": f"{datetime.fromtimestamp(CREATED.timestamp() + number, UTC):%Y-%m-%dT%H:%M:%SZ}",
            "volume": str(number * 17 + (version if number % CHANGED == 0 else 0)),
        }
        record["closedTime"] = record["createdAt"] if closed else None
        if kind == "markets":
            tokens = TOKEN_IDS[2 * number : 2 * number + 2] or [f"{number}01", f"{number}02"]
            record |= {
                "conditionId": f"0x{number:064x}",
                "clobTokenIds": orjson.dumps(tokens).decode(),
            }
            record |= {"outcomes": '["Yes", "No"]', "outcomePrices": '["0.4", "0.6"]'}
        yield record


def land_markets(run: Run) -> None:
    """Land the markets of all tokens of the benchmark's fills, without Gamma, and settle them."""
    load_id, fetched_at = now_us(), datetime.now(UTC)
    run.ledger.open(load_id, ["markets"])
    records = list(catalogue("markets", len(TOKEN_IDS) // 2))
    table = with_load_id(entities_table(MARKET, records, fetched_at=fetched_at), load_id)
    run.client.insert_arrow("markets", table, database=run.settings.raw_database)
    run.ledger.close_loading([load_id])
    settle(run.client, run.ledger, run.statements, max_rows=run.settings.settle_max_rows)


def measure(markets: int, events: int, runs: int) -> Part:
    """First load and refresh of so many markets and events, by cycles of the product.

    Raises:
        RuntimeError: some did not come through.
    """
    part = Part(
        "Markets",
        f"{markets:,} markets and {events:,} events from pages in memory, one in {CLOSED} closed, by cycles with"
        " `SOURCES=gamma` until all is read; then a full refresh of everything, in which one in"
        f" {CHANGED} has changed. Without Gamma's rate limits (30 requests a second for markets would hold the first load to"
        " 3 000 markets a second).",
    )
    first_s, refresh_s = [], []
    with (
        prepared(sources="gamma", gamma_open_every_s=0.001, gamma_closed_every_s=0.001) as place,
        serving(CataloguePages, markets, events, 0) as before,
        serving(CataloguePages, markets, events, 1) as after,
    ):
        without_limits(place.run, "gamma")
        for number in range(runs):
            place.empty()
            # Another folder, and with its tables empty dlt has no state: nothing was ever read.
            place.run.settings.dlt_pipelines_dir = place.folder / f"dlt-{number}"
            first_s.append(_load(place, before.url, markets, events, markets + events))
            changed = -(-markets // CHANGED) - (-events // CHANGED)
            refresh_s.append(_load(place, after.url, markets, events, changed))
    records = markets + events
    part.add("markets_first_load_per_s", "records/s", [records / each for each in first_s])
    part.add("markets_refresh_per_s", "records/s", [records / each for each in refresh_s])
    part.add("markets_first_load_s", "s", first_s)
    part.add("markets_refresh_s", "s", refresh_s)
    return part


def _load(place: Place, url: str, markets: int, events: int, changed: int) -> float:
    """Seconds until everything is read and settled."""
    run = place.run
    run.settings.polymarket_gamma_url = url
    since, rows, caught_up = time.perf_counter(), 0, False
    with run.lock.held("bench"):
        while not caught_up:
            report = run_cycle(run)
            report.raise_failures()
            rows, caught_up = rows + report.rows.total(), report.caught_up
    seconds = time.perf_counter() - since
    database = run.settings.clickhouse_database
    found = [
        run.client.command(f"select count() from {database}.{name}")
        for name in ("markets", "events")
    ]
    if found != [markets, events] or rows != changed:
        raise RuntimeError(
            f"{found} markets and events by {rows} rows, not {[markets, events]} by {changed}"
        )
    return seconds
