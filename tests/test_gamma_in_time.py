"""Gamma over many runs, in memory: whatever listings and clocks do, nothing new stays unseen and nothing goes back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl, urlencode

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ingest.http import HttpClient
from ingest.progress import Progress
from ingest.retries import RetryPolicy
from ingest.sources.gamma.entities import EPOCH, MICROSECOND, Version, at_micros, version_of
from ingest.sources.gamma.reader import OPEN_CADENCE
from ingest.sources.gamma.reader import streams as gamma
from sandbox.gamma import GammaStore, gamma_app
from sandbox.server import AppServer

START = 1_784_851_200  # 2026-07-24T00:00:00Z
STEP_S = 30
DAY = 86_400
PAGE = 3  # records a page


class Polymarket:
    """Markets that are created, updated and closed as time goes on, and a Gamma that lists them in its `mode`.

    Modes: `kept`, `ignored` (200, by id), `refused` (422), `stale` (pages by id as they were when they were last asked for).
    """

    def __init__(self, nulls_largest: bool) -> None:
        self.now, self.mode = START, "kept"
        self.gamma = GammaStore(nulls_largest=nulls_largest)
        self._app = gamma_app(self.gamma)
        self._cache: dict[bytes, list[Message]] = {}

    def create(self) -> None:
        self.now += STEP_S
        number = str(len(self.gamma.markets) + 1)
        times = {"createdAt": self._time(), "closedTime": None}
        self.gamma.put_market({"id": number, "closed": False} | times)
        self._touch(number)

    def close(self, number: int) -> None:
        """Close an open market; in one of five it leaves no time, as on legacy markets."""
        open_ids = [key for key, each in self.gamma.markets.items() if not each["closed"]]
        if open_ids:
            self.now += STEP_S
            key = open_ids[number % len(open_ids)]
            closing = {"closed": True} | ({"closedTime": self._time()} if number % 5 else {})
            self.gamma.put_market(self.gamma.markets[key] | closing)
            self._touch(key)

    def _touch(self, key: str) -> None:
        self.gamma.put_market(self.gamma.markets[key] | {"updatedAt": self._time()})

    def _time(self) -> str:
        return at_micros(self.now * 10**6).isoformat()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        query = dict(parse_qsl(scope["query_string"].decode())) | {"limit": str(PAGE)}
        if self.mode == "refused" and "order" in query:
            await Response("{}", 422)(scope, receive, send)
            return
        if self.mode == "ignored":
            query = {
                key: value for key, value in query.items() if key not in ("order", "ascending")
            }
        page = scope["path"].encode() + urlencode(query).encode()
        if self.mode != "stale" or "order" in query or page not in self._cache:
            self._cache[page] = messages = []

            async def kept(message: Message) -> None:
                messages.append(message)

            await self._app(scope | {"query_string": urlencode(query).encode()}, receive, kept)
        for message in self._cache[page]:
            await send(message)


class Warehouse:
    """What one installation has stored: every version of every market, and the state of its passes."""

    def __init__(self) -> None:
        self.versions: dict[str, list[tuple[Version, dict]]] = defaultdict(list)
        self.state: dict[str, Any] = {}

    def known_versions(self, table: str, ids: Sequence[str]) -> dict[str, Version]:
        return {key: self.current(key)[0] for key in ids if key in self.versions}

    def known_open(self, table: str) -> list[str]:
        return [key for key in self.versions if not self.current(key)[1]["closed"]]

    def current(self, key: str) -> tuple[Version, dict]:
        return max(self.versions[key], key=lambda each: each[0].fetched_us)

    def read(self, url: str, client: HttpClient, now: float, budget: float | None) -> Progress:
        """One run over the markets, by a clock that says `now`; failures are in the progress that it returns."""
        progress = Progress(budget)
        everything = gamma(
            url,
            progress=progress,
            known_versions=self.known_versions,
            known_open=self.known_open,
            client=client,
            overlap=2 * STEP_S,
            now=lambda: now,
        )
        markets = everything[0]
        for page in markets.read(self.state):
            for table in page.rows:
                for row in table.to_pylist():
                    self._store(row)
        return progress

    def _store(self, row: dict) -> None:
        read_us = (row["fetched_at"] - EPOCH) // MICROSECOND
        version = version_of(row["content_hash"], read_us, row["payload"])
        assert all(
            version.fetched_us > each.fetched_us for each, _ in self.versions[row["market_id"]]
        )
        self.versions[row["market_id"]].append((version, orjson.loads(row["payload"])))


MODES = st.sampled_from(["kept", "ignored", "refused", "stale"])
CLOCKS = st.sampled_from([0, 0, 3600, -3600, 365 * DAY, -365 * DAY])
RUNS = st.tuples(st.just("run"), MODES, CLOCKS, st.sampled_from([None, None, 0.0]))
EVENTS = st.lists(
    st.tuples(st.sampled_from(["create", "create", "close", "wait"]), st.integers(0, 99)),
    min_size=1,
    max_size=5,
)
ROUNDS = st.tuples(EVENTS, RUNS).map(lambda both: [*both[0], both[1]])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    nulls_largest=st.booleans(),
    rounds=st.lists(ROUNDS, min_size=2, max_size=8),
    last_events=EVENTS,
    last_mode=st.sampled_from(["kept", "ignored", "refused"]),
)
def test_in_the_end_everything_is_stored_and_nothing_went_back(
    nulls_largest: bool, rounds: list[list], last_events: list, last_mode: str
) -> None:
    world, stored = Polymarket(nulls_largest), Warehouse()
    world.create()
    client = HttpClient("gamma", retry=RetryPolicy(attempts=1))
    with AppServer(world) as server:
        for what, *how in [*chain(*rounds), *last_events]:
            if what == "create":
                world.create()
            elif what == "close":
                world.close(how[0])
            elif what == "wait":
                world.now += int(OPEN_CADENCE)
            else:
                world.mode, off, budget = how
                # A day after it was stored a version gives way to any page, so no old page by such a clock.
                world.mode = "kept" if world.mode == "stale" and abs(off) > DAY else world.mode
                stored.read(server.base_url, client, world.now + off, budget)
        world.mode = last_mode
        if (
            last_mode == "kept"
        ):  # what is closed without a time is found by the full pass of the week
            world.now += 8 * DAY
        for _ in range(3):  # passes that are under way end, and begin again
            progress = stored.read(server.base_url, client, float(world.now), None)
    # Another order may go unnoticed where the first page alone tells that nothing is new; full passes find the rest.
    if last_mode == "refused" or _is_newest_first(world):
        assert bool(progress.failures) == (last_mode == "refused")
    assert stored.versions.keys() == world.gamma.markets.keys()
    for key, market in world.gamma.markets.items():
        assert stored.current(key)[1] == market | {"events": []}
        updates = [payload["updatedAt"] for _, payload in stored.versions[key]]
        assert updates == sorted(updates)


def _is_newest_first(world: Polymarket) -> bool:
    """Whether the listings that the newest-first passes were given in the end are in that order, be it by chance."""
    if world.mode != "ignored":
        return True
    markets = [world.gamma.markets[key] for key in sorted(world.gamma.markets, key=int)]
    listings = (
        [each["createdAt"] for each in markets if not each["closed"]],
        [each["closedTime"] for each in markets if each["closedTime"]],
    )
    return all(times == sorted(times, reverse=True) for times in listings)
