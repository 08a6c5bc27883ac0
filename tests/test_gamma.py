"""Gamma: passes that find everything and stop, paging guards, only changes stored."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_runs import Lake, open_lake
from scripted_server import HTML, Answer, ScriptedServer, as_json
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ingest.errors import (
    HttpStatusError,
    IngestError,
    NotJson,
    OrderIgnored,
    RepeatedCursor,
    RepeatedPage,
    Unreachable,
    WrongShape,
)
from ingest.http import HttpClient
from ingest.progress import Progress
from ingest.records import content_hash
from ingest.retries import RetryPolicy
from ingest.sources.gamma.entities import (
    EVENT,
    MARKET,
    Version,
    micros_of,
    next_version_us,
    past_version_us,
)
from ingest.sources.gamma.gone import Gone
from ingest.sources.gamma.passes import Keyset, Pass, run_pass
from ingest.sources.gamma.reader import streams as gamma
from sandbox.gamma import GammaStore, gamma_app
from sandbox.server import AppServer

NEW = Pass("new", closed=False, newest_by="createdAt")
JUST_CLOSED = Pass("just_closed", closed=True, newest_by="closedTime")
OPEN = Pass("open", closed=False, cadence=1800)


MIDNIGHT = 1_784_851_200  # 2026-07-24T00:00:00Z
NOON = MIDNIGHT + 12 * 3600


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


def store_of(*markets: dict, **options: bool) -> GammaStore:
    """These markets, and one event about the first of them."""
    store = GammaStore(**options)
    for each in markets:
        store.put_market(each)
    event = {"id": "7", "closed": False, "createdAt": "2026-07-24T00:00:00Z", "closedTime": None}
    store.put_event(event, market_ids=[markets[0]["id"]])
    return store


def by_id(app: ASGIApp) -> ASGIApp:
    """A Gamma that ignores `order`: 200, and the listing by id."""

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            pairs = parse_qsl(scope["query_string"].decode())
            kept = [pair for pair in pairs if pair[0] not in ("order", "ascending")]
            scope = scope | {"query_string": urlencode(kept).encode()}
        await app(scope, receive, send)

    return asked


def collect(
    url: str,
    a_pass: Pass,
    state: dict,
    *,
    limit: int = 10,
    pages: int = 10**6,
    now: float = MIDNIGHT + 86_400,
) -> list[str]:
    """Ids that one run of a pass reads, at most `pages` pages, `now` by this machine's clock."""
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
        assert len(collect(server.base_url, JUST_CLOSED, state, now=NOON + 1000)) == 30
        assert state["watermark"] == MIDNIGHT + 5900
        store.put_market(market(60, second=6000, closed=True))
        found = collect(server.base_url, JUST_CLOSED, state, now=NOON + 1010)
        assert "60" in found
        assert len(found) <= 20, "the pages that hold nothing but legacy markets are not read again"
        assert state["watermark"] == MIDNIGHT + 6000
        store.put_market(market(61, closed=True) | {"closedTime": None})
        assert "61" not in collect(server.base_url, JUST_CLOSED, state, now=NOON + 1020)
        assert "61" in collect(server.base_url, JUST_CLOSED, state, now=NOON + 1000 + 1800)


def test_a_pass_with_a_cadence_waits_for_it() -> None:
    with AppServer(gamma_app(store_of(*map(market, range(1, 5))))) as server:
        state: dict = {}
        assert OPEN.is_due(state, 1000)
        assert len(collect(server.base_url, OPEN, state, limit=3, pages=1, now=1000)) == 3
        assert OPEN.is_due(state, 1001), "it is under way"
        assert len(collect(server.base_url, OPEN, state, limit=3, now=1500)) == 1
        assert not OPEN.is_due(state, 2799)
        assert OPEN.is_due(state, 2800)


def test_a_full_page_that_loses_its_cursor_is_asked_for_again() -> None:
    """It would be taken for the last one."""
    asked: list[str] = []

    def respond(path: str, body: bytes) -> Answer:
        asked.append(path)
        if cursor_of(path):
            return page(3)
        return page(1, 2, cursor="b" if len(asked) > 1 else None)

    with ScriptedServer(respond) as server:
        assert collect(server.url, OPEN, {}, limit=2) == ["1", "2", "3"]
    assert len(asked) == 3


def test_a_stored_cursor_that_is_refused_starts_the_pass_again() -> None:
    with AppServer(gamma_app(store_of(*map(market, range(1, 5))))) as server:
        state = {"cursor": "stale", "started_at": 5.0}
        assert len(collect(server.base_url, OPEN, state, now=9.0)) == 4
        assert state == {"started_at": 9.0}


# -- an order that is not kept ---


@settings(max_examples=30, deadline=None)
@given(
    # Created in the order of their ids, some at the same time, some at none.
    seconds=st.lists(st.none() | st.integers(0, 40), min_size=1, max_size=30),
    limit=st.integers(1, 8),
    pages=st.integers(1, 3),
    watermark=st.none() | st.integers(0, 50),
)
def test_a_listing_by_id_is_an_error_or_was_read_to_its_end(
    seconds, limit, pages, watermark
) -> None:
    times = sorted(second for second in seconds if second is not None)
    dated = iter(times)
    markets = [
        market(number, second=next(dated)) if second is not None else market(number, createdAt=None)
        for number, second in enumerate(seconds, 1)
    ]
    before = {} if watermark is None else {"watermark": float(MIDNIGHT + watermark)}
    state, found = dict(before), []
    with AppServer(by_id(gamma_app(store_of(*markets)))) as server:
        while not found or "cursor" in state:
            try:
                found += collect(server.base_url, NEW, state, limit=limit, pages=pages)
            except OrderIgnored as error:
                assert "not newest first although order=createdAt was asked for" in str(error)
                assert state == before | {"missed": True}
                return
    assert sorted(map(int, found)) == list(range(1, len(seconds) + 1))


@pytest.mark.parametrize("nulls_largest", [True, False], ids=["nulls first", "nulls last"])
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_an_order_that_is_kept_is_no_error(nulls_largest: bool, limit: int) -> None:
    """With ties, times that have not come yet, zeros, and records without a time, wherever those stand."""
    odd = ["2099-01-01T00:00:00Z", "0001-01-01T00:00:00Z", None, "soon"]
    store = store_of(
        *(market(n, createdAt=odd[n % 4]) for n in range(1, 9)),
        *(market(n, second=n // 3) for n in range(10, 30)),
        nulls_largest=nulls_largest,
    )
    state: dict = {}
    with AppServer(gamma_app(store)) as server:
        collect(server.base_url, NEW, state, limit=limit)
        store.put_market(market(31, second=100))
        assert "31" in collect(server.base_url, NEW, state, limit=limit)
    assert state["watermark"] == MIDNIGHT + 100.25
    assert "missed" not in state


def test_a_time_that_has_not_come_yet_moves_no_watermark() -> None:
    for name, field, closed in (("new", "createdAt", False), ("just_closed", "closedTime", True)):
        a_pass = Pass(name, closed=closed, newest_by=field)
        markets = [market(n, second=100 * n, closed=closed) for n in range(1, 30)]
        store = store_of(*markets, market(40, closed=closed, **{field: "2099-01-01 00:00:00+00"}))
        state: dict = {}
        with AppServer(gamma_app(store)) as server:
            collect(server.base_url, a_pass, state, now=NOON)
            store.put_market(market(30, second=2950, closed=closed))
            found = collect(server.base_url, a_pass, state, now=NOON)
        assert "30" in found
        assert int(state["watermark"]) == MIDNIGHT + 2950


@pytest.mark.parametrize("ahead", [1, 30, 60, 61, 3600, 10**9])
def test_a_stored_watermark_of_the_future_is_taken_back(ahead: int) -> None:
    """Of an earlier version, which took 2099 for the newest time; `overlap` is 60 s here."""
    store = store_of(*(market(n, second=1000 + n) for n in range(1, 30)))
    now = float(MIDNIGHT + 1030)
    state = {"watermark": now + ahead}
    with AppServer(gamma_app(store)) as server:
        assert len(collect(server.base_url, NEW, state, now=now)) >= 10
    assert state["watermark"] <= now
    assert state.get("missed", False) == (ahead > 60), "what was missed meanwhile is read at once"


# -- what is open no more ---


@given(
    open_before=st.sets(st.integers(1, 60)),
    open_now=st.sets(st.integers(1, 60)),
    size=st.integers(1, 7),
    pages_a_run=st.integers(1, 4),
)
def test_what_is_not_among_the_open_ones_any_more_is_found(
    open_before, open_now, size, pages_a_run
) -> None:
    """Over as many runs as the pass takes, and nothing else is found."""
    listing = [{"id": str(each)} for each in sorted(open_now)]
    pages = [listing[at : at + size] for at in range(0, len(listing), size)] or [[]]
    state: dict = {}
    found: list[str] = []
    for first in range(0, len(pages), pages_a_run):
        gone = Gone(state, map(str, open_before))
        for page in pages[first : first + pages_a_run]:
            gone.add(page)
        state["cursor"] = "there is more"
        if first + pages_a_run >= len(pages):
            del state["cursor"]
        found += gone.ids()
    assert found == [str(each) for each in sorted(open_before - open_now)]


@pytest.mark.parametrize("ids", [["3", "1"], ["9", "2", "5"], ["x", "5", "4"]])
def test_a_listing_in_another_order_shows_nothing(ids: list[str]) -> None:
    gone = Gone({}, ["1", "2", "7"])
    gone.add([{"id": each} for each in ids])
    gone.add([{"id": "100"}, None, {}])
    assert gone.ids() == []


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
            url, progress=progress, known_versions=lake.known_versions, client=client(), **options
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


@pytest.mark.parametrize("most", [1, 7, 100])
def test_a_page_that_is_cut_is_not_the_end(lake: Lake, most: int) -> None:
    """Gamma gives fewer records than asked for whenever it likes; only a missing cursor is the end."""
    count = 3 * most if most < 100 else 230
    store = store_of(market(1))
    for number in range(8, 8 + count):
        store.put_event({"id": str(number), "closed": False}, market_ids=())

    def cut(app: ASGIApp) -> ASGIApp:
        async def asked(scope: Scope, receive: Receive, send: Send) -> None:
            query = scope.get("query_string", b"").replace(b"limit=100", b"limit=%d" % most)
            await app(scope | {"query_string": query}, receive, send)

        return asked

    with AppServer(cut(gamma_app(store))) as server:
        load(lake, server.base_url)
    assert lake.count("events", final=True) == count + 1


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
        markets, _ = gamma(url, progress=progress, known_versions=lake.known_versions)
        return [markets]

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


@pytest.mark.parametrize("time", [None, "0001-01-01T00:00:00Z"], ids=["null", "year 1"])
@pytest.mark.parametrize("nulls_largest", [True, False], ids=["nulls first", "nulls last"])
def test_a_market_that_closes_without_a_time_is_seen_by_the_next_open_pass(
    lake: Lake, time: str | None, nulls_largest: bool
) -> None:
    """Also where it stands at the end of the closed ones, which are read once a week."""
    markets = [market(n, second=n) for n in range(1, 151)]
    closed = [market(n, second=n, closed=True) for n in range(151, 401)]
    store = store_of(*markets, *closed, nulls_largest=nulls_largest)
    with AppServer(gamma_app(store)) as server:
        load(lake, server.base_url)
        for number in (5, 100, 150):
            store.put_market(market(number, closed=True) | {"closedTime": time})
        load(lake, server.base_url, open_cadence=0, known_open=lake.known_open)
    stored = latest(lake, "markets")
    assert [key for key in ("5", "100", "150") if not stored[key]["closed"]] == []
    assert lake.known_open("markets") == [str(n) for n in range(1, 150) if n not in (5, 100)]


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


@pytest.mark.parametrize("budget", [None, 0.0])
@pytest.mark.parametrize("from_the_start", [True, False])
def test_what_a_listing_by_id_hides_arrives_all_the_same(
    lake: Lake, budget: float | None, from_the_start: bool
) -> None:
    """New and closed markets, by the full passes, although those are not due for hours and days."""
    store = store_of(*(market(n, second=n, closed=n % 2 == 0) for n in range(1, 241)))
    with AppServer(gamma_app(store)) as kept, AppServer(by_id(gamma_app(store))) as ignored:
        url = ignored.base_url if from_the_start else kept.base_url
        while lake.rows("select uniqExact(market_id) from {db}.markets") != [(240,)]:
            with suppress(OrderIgnored):
                load(lake, url, budget=budget, overlap=0)
        changes = [market(n, second=1000 + n) for n in range(241, 291)]
        changes += [market(n, second=1000 + n, closed=True) for n in range(1, 101, 2)]
        for each in changes:
            store.put_market(each)
        # With no time at all a run reads one page, and the full passes begin behind the ones that are under way.
        for _ in range(1 if budget is None else 5):
            with pytest.raises(OrderIgnored):
                load(lake, ignored.base_url, budget=budget)
        stored = latest(lake, "markets")
        assert len(stored) == 290
        assert all(stored[each["id"]]["closed"] == each["closed"] for each in changes)
        assert lake.state("gamma")["markets"]["caught_up"] is False

        for _ in range(2):  # the order is back; the last full passes end, and once more
            progress = load(lake, kept.base_url)
        assert progress.caught_up["markets"]


def test_a_refused_order_starts_the_full_passes_at_once(lake: Lake) -> None:
    store = store_of(*(market(n, second=n, closed=n % 2 == 0) for n in range(1, 31)))
    refusing = {"on": False}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        refuse = refusing["on"] and b"order=" in scope.get("query_string", b"")
        await (Response("{}", 422) if refuse else gamma_app(store))(scope, receive, send)

    with AppServer(app) as server:
        load(lake, server.base_url)
        refusing["on"] = True
        store.put_market(market(31, second=31))
        store.put_market(market(1, second=32, closed=True))
        with pytest.raises(HttpStatusError):
            load(lake, server.base_url)
    stored = latest(lake, "markets")
    assert stored["31"]["closed"] is False
    assert stored["1"]["closed"] is True


def test_a_watermark_of_the_future_is_healed_with_what_it_hid(lake: Lake) -> None:
    """An earlier version took 2099 for the newest time, and then read one page of new markets a run."""
    store = store_of(*(market(n, second=n) for n in range(1, 31)))
    with AppServer(gamma_app(store)) as server:
        # A clock that far ahead does to the state what that version did.
        store.put_market(market(40, createdAt="2099-01-01T00:00:00Z"))
        load(lake, server.base_url, now=lambda: 4_102_444_800.0)
        for n in range(100, 350):
            store.put_market(market(n, second=n))
        load(lake, server.base_url)
    assert lake.count("markets", final=True) == 31 + 250


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
    assert all("limit=100" in path for path in paths if path.startswith(EVENT.path))
    assert not any("offset" in path for path in paths)


# -- versions ---


HOUR = 3600.0


def updated(minute: int, **more: object) -> dict:
    """Market 1 as Gamma has it since this minute after ten."""
    return market(1, updatedAt=f"2026-07-24T10:{minute:02d}:00.5Z", **more)


def read(lake: Lake, *records: dict, now: float | None = None, **pages: list[dict]) -> None:
    """Load these records off the open listing, and others off the closed one, by a clock that says `now`."""

    def respond(path: str, body: bytes) -> Answer:
        if path.startswith(EVENT.path):
            return as_json({"events": []})
        closed = "closed=true" in path
        return as_json({"markets": pages.get("closed", []) if closed else [*records]})

    options = {} if now is None else {"now": lambda: now}
    with ScriptedServer(respond) as server:
        load(lake, server.url, open_cadence=0, closed_cadence=0, **options)


def versions(lake: Lake) -> list[str]:
    """The questions of market 1, version by version."""
    rows = lake.rows(
        "select payload from {db}.markets final where market_id = '1' order by fetched_at"
    )
    return [orjson.loads(payload)["question"] for (payload,) in rows]


def test_a_page_older_than_what_is_stored_does_not_win(lake: Lake) -> None:
    """As reported of Gamma's CDN: the page by id still has the market open, the closed one has it closed."""
    for _ in range(3):
        read(lake, updated(0, question="open"), closed=[updated(3, closed=True, question="closed")])
    assert versions(lake) == ["open", "closed"]
    assert latest(lake, "markets")["1"]["closed"] is True
    read(lake, updated(2, question="late"))
    read(lake, updated(4, question="open again"))
    assert versions(lake) == ["open", "closed", "open again"]


def test_content_without_a_later_update_is_stored_as_it_comes(lake: Lake) -> None:
    """A volume may tick without `updatedAt`, and some records have none."""
    for question in ("1", "2", "1"):
        read(lake, updated(0, question=question))
    read(lake, market(1, question="none"))
    read(lake, updated(0, question="3"))
    assert versions(lake) == ["1", "2", "1", "none", "3"]


@pytest.mark.parametrize("absurd", ["2099-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_an_absurd_time_of_updating_blocks_nothing(lake: Lake, absurd: str) -> None:
    read(lake, market(1, question="absurd", updatedAt=absurd))
    read(lake, updated(0, question="right"))
    read(lake, market(1, question="zero", updatedAt="0001-01-01T00:00:00Z"))
    read(lake, updated(1, question="right again"))
    assert versions(lake) == ["absurd", "right", "zero", "right again"]


def test_times_that_went_back_at_gamma_itself_are_followed_after_a_day(lake: Lake) -> None:
    read(lake, updated(30, question="before"), now=float(NOON))
    read(lake, updated(10, question="after"), now=NOON + HOUR)
    assert versions(lake) == ["before"]
    read(lake, updated(10, question="after"), now=NOON + 25 * HOUR)
    assert versions(lake) == ["before", "after"]


@pytest.mark.parametrize("off", [HOUR, 300 * 24 * HOUR, -HOUR, -300 * 24 * HOUR])
@pytest.mark.parametrize("with_times", [True, False])
def test_no_clock_keeps_a_market_from_changing(lake: Lake, off: float, with_times: bool) -> None:
    """One run with a clock that is off, and runs with a right one before and after it."""

    def record(minute: int, question: str) -> dict:
        return updated(minute, question=question) if with_times else market(1, question=question)

    read(lake, record(0, "before"), now=float(NOON))
    read(lake, record(1, "meanwhile"), now=NOON + 60 + off)
    read(lake, record(2, "after"), now=NOON + 120.0)
    assert versions(lake) == ["before", "meanwhile", "after"]
    read(lake, record(2, "after"), now=NOON + 180.0)
    assert versions(lake) == ["before", "meanwhile", "after"], "known content is not stored again"
    query = "select toUnixTimestamp64Micro(fetched_at) from {db}.markets order by fetched_at"
    times = [time for (time,) in lake.rows(query)]
    assert times[0] == NOON * 10**6
    assert times[2] == (times[1] + 1 if off > 0 else (NOON + 120) * 10**6)


def test_of_a_market_that_stands_twice_on_a_page_the_one_updated_last_counts(lake: Lake) -> None:
    read(lake, updated(5, question="new"), updated(1, question="old"))
    assert versions(lake) == ["new"]
    read(lake, updated(6, question="first"), updated(6, question="last"))
    assert versions(lake) == ["new", "last"]


TIMES = st.integers(1, 10**9)
VERSIONS = st.builds(Version, st.just(1), TIMES, st.none() | TIMES)


@given(current=VERSIONS, updated_us=st.none() | TIMES, read_us=TIMES)
def test_versions_come_in_the_order_of_gamma_where_that_says_one(
    current, updated_us, read_us
) -> None:
    assert next_version_us(read_us, None) == past_version_us(read_us, updated_us, None) == read_us
    assert next_version_us(read_us, current) >= max(read_us, current.fetched_us + 1)
    at = past_version_us(read_us, updated_us, current)
    if updated_us is None or current.updated_us in (None, updated_us):
        assert at == read_us
    else:
        assert (at > current.fetched_us) == (updated_us > current.updated_us)
        assert at != current.fetched_us


@given(
    value=st.text(max_size=30) | st.none() | st.integers() | st.datetimes().map(datetime.isoformat)
)
def test_a_time_is_a_time_after_1970_or_none(value) -> None:
    micros = micros_of({"createdAt": value}, "createdAt")
    assert micros is None or micros > 0


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2026-07-24T00:00:16.1Z", (MIDNIGHT + 16) * 10**6 + 100_000),
        ("2026-07-24T00:00:16.123456Z", (MIDNIGHT + 16) * 10**6 + 123_456),
        ("2026-07-24 00:00:16+00", (MIDNIGHT + 16) * 10**6),
        ("2026-07-24T02:00:16+02:00", (MIDNIGHT + 16) * 10**6),
        ("0001-01-01T00:00:00Z", None),
        ("1970-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
    ],
)
def test_times_are_read_in_every_spelling(text: str | None, micros: int | None) -> None:
    assert micros_of({"createdAt": text}, "createdAt") == micros
