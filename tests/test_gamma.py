"""Gamma: passes that find everything and stop, paging guards, only changes stored."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_runs import Lake, open_lake
from scripted_server import HTML, Answer, ScriptedServer, as_json

from ingest.errors import (
    HttpStatusError,
    IngestError,
    NotJson,
    RepeatedCursor,
    RepeatedPage,
    Unreachable,
    WrongShape,
)
from ingest.http import HttpClient, RetryPolicy
from ingest.progress import Progress
from ingest.records import content_hash
from ingest.sources.gamma import gamma
from ingest.sources.gamma_entities import EVENT, MARKET
from ingest.sources.gamma_passes import Keyset, Pass, run_pass
from sandbox.gamma import GammaStore, gamma_app
from sandbox.server import AppServer

NEW = Pass("new", closed=False, newest_by="createdAt")
JUST_CLOSED = Pass("just_closed", closed=True, newest_by="closedTime")
OPEN = Pass("open", closed=False, cadence=1800)


def client() -> HttpClient:
    return HttpClient("gamma", retry=RetryPolicy(attempts=2), sleep=lambda seconds: None)


def market(number: int, *, second: int = 0, closed: bool | None = False, **more: object) -> dict:
    """A market created, and if closed then closed, `second` seconds into 2026-07-24."""
    clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    return {
        "id": str(number),
        "question": f"Will {number} happen?",
        "closed": closed,
        "createdAt": f"2026-07-24T{clock}.25Z",
        "closedTime": f"2026-07-24 {clock}+00" if closed else None,
        "clobTokenIds": f'["{number}001", "{number}002"]',
        **more,
    }


MIDNIGHT = 1_784_851_200  # 2026-07-24T00:00:00Z


def store_of(*markets: dict) -> GammaStore:
    """These markets, and one event about the first of them."""
    store = GammaStore()
    for each in markets:
        store.put_market(each)
    event = {"id": "7", "closed": False, "createdAt": "2026-07-24T00:00:00Z", "closedTime": None}
    store.put_event(event, market_ids=[markets[0]["id"]])
    return store


def collect(
    url: str, a_pass: Pass, state: dict, *, limit: int = 10, pages: int = 10**6, now: float = 0.0
) -> list[str]:
    """Ids that one run of a pass reads, at most `pages` pages."""
    left = iter(range(pages - 1))
    keyset = Keyset(client(), url, MARKET, limit)
    return [
        record["id"]
        for page in run_pass(
            keyset,
            a_pass,
            state,
            has_time=lambda: next(left, None) is not None,
            now=lambda: now,
            overlap=60,
        )
        for record in page
    ]


# -- passes ---


@settings(max_examples=20, deadline=None)
@given(
    # Seconds of creation: 40 markets on 5 seconds tie everywhere, at page edges too.
    seconds=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    limit=st.integers(1, 12),
    pages=st.integers(1, 4),
)
def test_fetched_is_true_set(seconds, limit, pages) -> None:
    """Any ties, any page size, over as many runs as it takes; the watermark is the newest time."""
    store = store_of(*(market(number, second=s) for number, s in enumerate(seconds, 1)))
    with AppServer(gamma_app(store)) as server:
        for a_pass in (OPEN, Pass("all", closed=False, newest_by="createdAt")):
            found, state = [], {"watermark": 0.0} if a_pass.newest_by else {}
            while True:
                found += collect(server.base_url, a_pass, state, limit=limit, pages=pages)
                if "cursor" not in state:
                    break
            assert sorted(map(int, found)) == list(range(1, len(seconds) + 1))
    assert state["watermark"] == MIDNIGHT + max(seconds) + 0.25


def test_new_stops_where_the_last_run_had_got_to() -> None:
    store = store_of(*(market(n, second=100 * n) for n in range(1, 50)))
    state: dict = {}
    with AppServer(gamma_app(store)) as server:
        # Without a watermark one page gives it: what is older, the full pass reads.
        assert collect(server.base_url, NEW, state) == [str(n) for n in range(49, 39, -1)]
        assert state == {"watermark": MIDNIGHT + 4900.25}
        store.put_market(market(50, second=4950))  # visible late: created before number 51
        store.put_market(market(51, second=5000))
        assert collect(server.base_url, NEW, state, limit=2) == ["51", "50", "49", "48"]
        assert state == {"watermark": MIDNIGHT + 5000.25}


def test_markets_without_closing_time_neither_stop_nor_mislead_just_closed() -> None:
    """Descending order puts NULLs first: 25 legacy markets stand before the newest."""
    legacy = [market(n, closed=True) | {"closedTime": None} for n in range(1, 26)]
    dated = [market(n, second=100 * n, closed=True) for n in range(26, 60)]
    store = store_of(*legacy, *dated)
    state: dict = {}
    with AppServer(gamma_app(store)) as server:
        assert len(collect(server.base_url, JUST_CLOSED, state, now=1000)) == 30
        assert state["watermark"] == MIDNIGHT + 5900
        store.put_market(market(60, second=6000, closed=True))
        found = collect(server.base_url, JUST_CLOSED, state, now=1010)
        assert "60" in found
        assert len(found) <= 20, "the pages that hold nothing but legacy markets are not read again"
        assert state["watermark"] == MIDNIGHT + 6000
        store.put_market(market(61, closed=True) | {"closedTime": None})
        assert "61" not in collect(server.base_url, JUST_CLOSED, state, now=1020)
        assert "61" in collect(server.base_url, JUST_CLOSED, state, now=1000 + 1800)


def test_a_pass_with_a_cadence_waits_for_it() -> None:
    with AppServer(gamma_app(store_of(*map(market, range(1, 5))))) as server:
        state: dict = {}
        assert OPEN.is_due(state, 1000)
        assert len(collect(server.base_url, OPEN, state, limit=3, pages=1, now=1000)) == 3
        assert OPEN.is_due(state, 1001), "it is under way"
        assert len(collect(server.base_url, OPEN, state, limit=3, now=1500)) == 1
        assert not OPEN.is_due(state, 2799)
        assert OPEN.is_due(state, 2800)


def test_a_stored_cursor_that_is_refused_starts_the_pass_again() -> None:
    with AppServer(gamma_app(store_of(*map(market, range(1, 5))))) as server:
        state = {"cursor": "stale", "started_at": 5.0}
        assert len(collect(server.base_url, OPEN, state, now=9.0)) == 4
        assert state == {"started_at": 9.0}


# -- guards ---


def page(*numbers: int, cursor: str | None = None) -> Answer:
    body: dict = {"markets": [market(number) for number in numbers]}
    return as_json(body | ({"next_cursor": cursor} if cursor else {}))


def cursor_of(path: str) -> str | None:
    return path.partition("after_cursor=")[2] or None


@pytest.mark.parametrize(
    ("respond", "error"),
    [
        (lambda path, body: page(1, 2, cursor="b"), RepeatedPage),
        (lambda path, body: page(len(path), cursor="b"), RepeatedCursor),
        (lambda path, body: HTML, NotJson),
        (lambda path, body: as_json([market(1)]), WrongShape),
        (lambda path, body: as_json({"data": []}), WrongShape),
        (lambda path, body: as_json({"markets": [], "next_cursor": 7}), WrongShape),
        (lambda path, body: as_json({}, status=422), HttpStatusError),
        # A cursor that is fine at first and refused later is the upstream's fault, not staleness.
        (
            lambda path, body: as_json({}, status=422) if cursor_of(path) else page(1, cursor="b"),
            HttpStatusError,
        ),
    ],
    ids=["page again", "cursor again", "html", "bare list", "no list", "odd cursor", "422", "late"],
)
def test_paging_that_cannot_go_on_is_named(respond, error: type[IngestError]) -> None:
    unique = iter(range(10**6))

    def answer(path: str, body: bytes) -> Answer:
        return (
            respond(path + "x" * next(unique), body)
            if error is RepeatedCursor
            else respond(path, body)
        )

    with ScriptedServer(answer) as server, pytest.raises(error):
        collect(server.url, OPEN, {})


# -- into ClickHouse ---


@pytest.fixture
def lake(clickhouse, database_prefix: str, tmp_path: Path) -> Lake:
    return open_lake(clickhouse, database_prefix, tmp_path / "dlt")


def load(lake: Lake, url: str, *, budget: float | None = None, **options) -> Progress:
    return lake.load(
        "gamma",
        lambda progress: gamma(
            url, progress=progress, known_hashes=lake.known_hashes, client=client(), **options
        ),
        budget=budget,
    )


def latest(lake: Lake, table: str) -> dict[str, dict]:
    """Payload of the newest version of each record."""
    column = f"{table[:-1]}_id"
    query = f"select {column}, argMax(payload, fetched_at) from {{db}}.{table} group by 1"
    return {key: orjson.loads(payload) for key, payload in lake.rows(query)}


def test_only_changes_are_stored(lake: Lake) -> None:
    store = store_of(*(market(n, second=n, closed=n % 2 == 0) for n in range(1, 31)))
    with AppServer(gamma_app(store)) as server:
        progress = load(lake, server.base_url)
        assert progress.caught_up == {"markets": True, "events": True}
        assert progress.watermark["markets"] == MIDNIGHT + 29
        assert lake.count("markets") == 30
        assert lake.count("events") == 1

        loads = lake.count("_dlt_loads")
        load(lake, server.base_url, open_cadence=0, closed_cadence=0)
        assert lake.count("markets") == 30
        first = market(1, second=1)
        for change in ({"volume": "2"}, {}):  # there and back: the newest version is the first
            store.put_market(first | change)
            load(lake, server.base_url, open_cadence=0)
            payload = latest(lake, "markets")["1"]
            assert payload == first | change | {"events": [{"id": "7"}]}
        assert lake.count("_dlt_loads") > loads
        [event] = latest(lake, "events").values()
        assert event["markets"] == [{"id": "1"}]
        assert lake.count("events") == 1, "an event is not stored again for a tick of its market"


def test_nothing_new_is_no_load_at_all(lake: Lake) -> None:
    store = store_of(*(market(n, closed=n % 2 == 0) for n in range(1, 31)))
    with AppServer(gamma_app(store)) as server:
        load(lake, server.base_url)
        loads = lake.count("_dlt_loads")
        load(lake, server.base_url)
    assert lake.count("_dlt_loads") == loads


def test_rows_carry_key_columns_and_hash(lake: Lake) -> None:
    store = store_of(market(1), market(2, closed=True), market(3, closed=None))
    with AppServer(gamma_app(store)) as server:
        load_markets_only(lake, server.base_url)
    rows = lake.rows("select market_id, closed, content_hash, payload from {db}.markets order by 1")
    assert [row[:2] for row in rows] == [("1", 0), ("2", 1), ("3", 0)]
    for _, _, stored_hash, payload in rows:
        assert stored_hash == content_hash(payload.encode())
        assert payload == orjson.dumps(orjson.loads(payload), option=orjson.OPT_SORT_KEYS).decode()


def load_markets_only(lake: Lake, url: str) -> None:
    def source(progress: Progress):
        everything = gamma(url, progress=progress, known_hashes=lake.known_hashes)
        return everything.with_resources("markets")

    lake.load("gamma", source)


def test_a_market_that_closes_in_between_is_seen(lake: Lake) -> None:
    store = store_of(*(market(n, second=n) for n in range(1, 31)), market(31, closed=True))
    with AppServer(gamma_app(store)) as server:
        load_markets_only(lake, server.base_url)
        store.put_market(market(5, second=5000, closed=True))
        load_markets_only(lake, server.base_url)
    assert lake.rows(
        "select argMax(closed, fetched_at) from {db}.markets where market_id = '5'"
    ) == [(1,)]


def test_passes_go_on_over_runs(lake: Lake) -> None:
    store = store_of(*(market(n, second=n, closed=n % 2 == 0) for n in range(1, 501)))
    with AppServer(gamma_app(store)) as server:
        runs = 1
        while not load(lake, server.base_url, budget=0.0, overlap=0).caught_up["markets"]:
            runs += 1
    assert runs == 3  # 250 open and 250 closed markets, 100 a page, both passes a page in each run
    assert lake.count("markets", final=True) == 500


def test_markets_of_tokens_come_first(lake: Lake) -> None:
    store = store_of(*(market(n, closed=n % 2 == 0) for n in range(1, 400)))
    tokens = [f"{n}001" for n in (350, 351, *range(200, 260))]
    with AppServer(gamma_app(store)) as server:
        load(lake, server.base_url, budget=0.0, tokens=tokens)
    found = {key for (key,) in lake.rows("select market_id from {db}.markets")}
    assert {"350", "351", *(str(n) for n in range(200, 260))} <= found


def test_records_without_id_are_dead_letters(lake: Lake) -> None:
    records = [market(1), {"question": "?"}, 17, market(2) | {"id": ""}, market(3)]

    def respond(path: str, body: bytes) -> Answer:
        return as_json({"markets": records, "events": []})

    with ScriptedServer(respond) as server:
        load(lake, server.url)
    assert lake.count("markets") == 2
    query = "select source, reason, payload from {db}.dead_letters order by all"
    assert [(source, reason) for source, reason, _ in lake.rows(query)] == [
        ("gamma_markets", "missing_field"),
        ("gamma_markets", "missing_field"),
        ("gamma_markets", "not_an_object"),
    ]


def test_a_failing_listing_does_not_stop_the_other(lake: Lake) -> None:
    def respond(path: str, body: bytes) -> Answer:
        if path.startswith(MARKET.path):
            return HTML
        return as_json({"events": [{"id": "7", "title": "Event"}]})

    with ScriptedServer(respond) as server, pytest.raises(NotJson):
        load(lake, server.url)
    assert set(latest(lake, "events")) == {"7"}


def test_a_refused_order_does_not_stop_the_full_passes(lake: Lake) -> None:
    def respond(path: str, body: bytes) -> Answer:
        if "order=" in path:
            return as_json({"error": "order fields are not valid"}, status=422)
        closed = "closed=true" in path
        return as_json({"markets": [market(1 + closed, closed=closed)], "events": []})

    with ScriptedServer(respond) as server, pytest.raises(HttpStatusError, match="order fields"):
        load(lake, server.url)
    assert lake.count("markets") == 2


def test_a_dead_upstream_is_not_asked_for_everything(lake: Lake) -> None:
    with ScriptedServer(lambda path, body: Answer(reset=True)) as server:
        with pytest.raises(Unreachable):
            load(lake, server.url)
        assert len(server.requests) == 2  # once, and one retry


def test_limits_are_those_of_the_endpoints(lake: Lake) -> None:
    def respond(path: str, body: bytes) -> Answer:
        return as_json({"markets": [], "events": []})

    with ScriptedServer(respond) as server:
        load(lake, server.url)
        paths = {path for path, _ in server.requests}
    assert all("limit=100" in path for path in paths if path.startswith(MARKET.path))
    assert all("limit=500" in path for path in paths if path.startswith(EVENT.path))
    assert not any("offset" in path for path in paths)
