"""The V1 archive: no row lost at ties, faults named, its end known, rows landed as they are."""

from __future__ import annotations

import random
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_runs import Lake, open_lake
from scripted_server import HTML, ScriptedServer, as_json

from ingest.contracts import V1_HORIZON
from ingest.errors import (
    GraphQLError,
    IngestError,
    NotJson,
    RateLimited,
    RepeatedPage,
    SourceFrozen,
    Timeout,
    WrongShape,
)
from ingest.http import HttpClient
from ingest.progress import Progress
from ingest.retries import RetryPolicy
from ingest.sources.goldsky.reader import Archive, archive_pages, keyset_filter
from ingest.sources.goldsky.reader import streams as goldsky
from sandbox.contracts import EXCHANGES, Fill
from sandbox.goldsky import Archive as SimulatedArchive

CTF = EXCHANGES["v1", False]


def fills_at(*seconds: int) -> list[Fill]:
    """Fills at these times, several of a transaction each, with ids that sort at random."""
    rng = random.Random(repr(seconds))
    fills = []
    for second in seconds:
        tx = f"0x{rng.getrandbits(256):064x}"
        for _ in range(rng.choice([1, 1, 2, 5])):
            fills.append(Fill(second, tx, f"0x{rng.getrandbits(256):064x}", token_id="77"))
    return fills


def client(**retry: float) -> HttpClient:
    policy = RetryPolicy(attempts=3, **retry)
    return HttpClient("goldsky", retry=policy, sleep=lambda seconds: None)


def read_all(url: str, *, page_size: int, start: int = 0, end: int | None = None, horizon: int = 0):
    """Everything a run without a budget reads, and the state it leaves."""
    state = {"timestamp": start - 1, "id": None}
    archive = Archive(client(), url, page_size)
    return [
        row for page in archive_pages(archive, state, end, horizon, Progress()) for row in page
    ], state


@settings(max_examples=25, deadline=None)
@given(
    # A dozen seconds for up to 30 transactions: ties everywhere, at page edges too.
    seconds=st.lists(st.integers(100, 112), min_size=1, max_size=30).map(sorted),
    page_size=st.integers(2, 17),
    bounds=st.tuples(st.integers(99, 113), st.integers(99, 113)),
    seed=st.integers(0, 9),
)
def test_fetched_is_true_set(seconds, page_size, bounds, seed) -> None:
    """With ties of any kind, any page size, and pages that are short for no reason."""
    fills = fills_at(*seconds)
    simulated = SimulatedArchive(fills)
    rng = random.Random(seed)
    cut_short = [0]

    def respond(path: str, body: bytes):
        answer = simulated.respond(body)
        rows = answer["data"]["orderFilledEvents"]
        # An empty page comes at most once in a row, as an overloaded index gives it.
        keep = rng.randint(0 if not cut_short[0] else 1, len(rows)) if rows else 0
        cut_short[0] = not keep
        answer["data"]["orderFilledEvents"] = rows[:keep]
        return as_json(answer)

    with ScriptedServer(respond) as server:
        everything, state = read_all(server.url, page_size=page_size, horizon=max(seconds))
    assert sorted(row["id"] for row in everything) == sorted({f.archive_id for f in fills})
    assert state["complete"]

    start, end = min(bounds), max(bounds) + 1
    with ScriptedServer(lambda path, body: as_json(simulated.respond(body))) as server:
        part, state = read_all(server.url, page_size=page_size, start=start, end=end)
    wanted = {f.archive_id for f in fills if start <= f.timestamp < end}
    assert sorted(row["id"] for row in part) == sorted(wanted)
    assert state["complete"]


def test_filter_keeps_the_end_out_of_the_or() -> None:
    assert keyset_filter(5, None, None) == {"timestamp_gt": "5"}
    assert keyset_filter(5, "0xa", 9) == {
        "or": [{"timestamp_gt": "5", "timestamp_lt": "9"}, {"timestamp": "5", "id_gt": "0xa"}]
    }


def test_pages_shrink_on_timeouts_and_nothing_is_lost() -> None:
    fills = fills_at(*range(1000, 1400))
    simulated, asked = SimulatedArchive(fills), []

    def respond(path: str, body: bytes):
        first = orjson.loads(body)["variables"]["first"]
        asked.append(first)
        if first > 100:
            return as_json(
                {"errors": [{"message": "canceling statement due to statement timeout"}]}
            )
        return as_json(simulated.respond(body))

    with ScriptedServer(respond) as server:
        rows, _ = read_all(server.url, page_size=800, horizon=1399)
    assert {row["id"] for row in rows} == {fill.archive_id for fill in fills}
    assert asked[:4] == [800, 400, 200, 100]


ALL_FILLS = orjson.dumps({"query": "{ orderFilledEvents(first: 1000) { id } }"})
PAGE = {"orderFilledEvents": [], "_meta": {"hasIndexingErrors": False, "block": {"number": 1}}}
ROW = {"id": "0xb", "timestamp": "50"}


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (as_json({"errors": [{"message": "Type has no field `x`"}]}), GraphQLError, "no field"),
        (HTML, NotJson, "HTML"),
        (as_json({"data": None}), WrongShape, "orderFilledEvents"),
        (as_json([1]), WrongShape, "list"),
        (as_json({"data": PAGE | {"orderFilledEvents": [{"id": "0xa"}]}}), WrongShape, "timestamp"),
        (as_json({"data": PAGE | {"orderFilledEvents": [ROW, ROW]}}), WrongShape, "not in order"),
        (
            as_json({"data": PAGE | {"orderFilledEvents": [{"id": "0xb", "timestamp": "0"}]}}),
            RepeatedPage,
            "told to skip",
        ),
        (as_json({"data": PAGE | {"_meta": {"hasIndexingErrors": True}}}), GraphQLError, "errors"),
        (as_json({"errors": [{"message": "statement timeout"}]}), Timeout, "timed out"),
        (
            as_json({"errors": [{"message": "Sorry, you've surpassed your query allowance"}]}),
            RateLimited,
            "allowance",
        ),
        (as_json({"data": PAGE}), SourceFrozen, "ends at unix time 0, before 100"),
    ],
)
def test_faults_are_named(answer, error: type[IngestError], words: str) -> None:
    with ScriptedServer(lambda path, body: answer) as server, pytest.raises(error) as caught:
        read_all(server.url, page_size=1000, start=1, horizon=100)
    assert words in str(caught.value)


def test_a_backfill_beyond_a_frozen_archive_is_an_error() -> None:
    simulated = SimulatedArchive(fills_at(100, 200))
    with ScriptedServer(lambda path, body: as_json(simulated.respond(body))) as server:
        with pytest.raises(SourceFrozen):
            read_all(server.url, page_size=10, end=300, horizon=1000)
        rows, _ = read_all(server.url, page_size=10, start=150, end=200, horizon=1000)
    assert rows == []


# -- into ClickHouse ---


@pytest.fixture
def lake(clickhouse, database_prefix: str, tmp_path: Path) -> Lake:
    return open_lake(clickhouse, database_prefix, tmp_path / "dlt")


def test_rows_land_as_they_are(lake: Lake) -> None:
    tx, order = "0x" + "ab" * 32, "0x" + "cd" * 32
    token = str(2**256 - 1)
    buy = Fill(V1_HORIZON, tx, order, token, "BUY", shares=17_700_000, usd=7_434_000, fee=1_770_000)
    sell = Fill(
        V1_HORIZON - 1, tx, order[:-1] + "e", token, "SELL", 2**64 - 1, 1, taker=CTF.upper()
    )
    simulated = SimulatedArchive([buy, sell])
    with ScriptedServer(lambda path, body: as_json(simulated.respond(body))) as server:
        progress = lake.load("goldsky", lambda p: goldsky(server.url, progress=p, client=client()))
    assert progress.caught_up == {"order_filled_v1": True}
    assert progress.watermark == {"order_filled_v1": V1_HORIZON}
    columns = (
        "toUnixTimestamp(timestamp), order_hash, exchange, taker, maker_asset_id, taker_asset_id,"
        " maker_amount, taker_amount, fee, contract_version, source, block_number, is_deleted"
    )
    rows = lake.rows(f"select {columns} from {{db}}.order_filled order by timestamp")
    ends = ("v1", "goldsky", 0, 0)
    assert rows == [
        (V1_HORIZON - 1, sell.order_hash, CTF, CTF, token, "0", 2**64 - 1, 1, 0, *ends),
        (V1_HORIZON, order, "", buy.taker, "0", token, 7_434_000, 17_700_000, 1_770_000, *ends),
    ]
    [(load_id,)] = lake.rows("select distinct load_id from {db}.order_filled")
    assert [(when, package.load_id) for when, package in lake.events] == [
        ("before", load_id),
        ("after", load_id),
    ]
    assert lake.events[0][1].rows == {"order_filled": 2}


def test_bad_records_become_dead_letters_and_take_nobody_along(lake: Lake) -> None:
    good = fills_at(*range(10, 40))
    bad = {
        "amount_out_of_range": {"makerAmountFilled": str(2**64)},
        "bad_field": {"fee": "a lot"},
        "missing_field": {"taker": ...},
    }
    simulated = SimulatedArchive(good)

    def respond(path: str, body: bytes):
        answer = simulated.respond(body)
        rows = answer["data"]["orderFilledEvents"]
        if len(rows) > 25:
            for at, change in zip((3, 11, 25), bad.values(), strict=True):
                changed = rows[at] | change
                rows[at] = {name: value for name, value in changed.items() if value is not ...}
        return as_json(answer)

    with ScriptedServer(respond) as server:
        lake.load("goldsky", lambda p: goldsky(server.url, progress=p, start=1, horizon=39))
    stored = lake.rows("select source, reason, payload from {db}.dead_letters order by reason")
    assert [(source, reason) for source, reason, _ in stored] == [
        ("goldsky", reason) for reason in sorted(bad)
    ]
    assert orjson.loads(stored[0][2])["makerAmountFilled"] == str(2**64)
    assert lake.count("order_filled") == len(good) - 3


def test_a_run_that_ends_early_goes_on_where_it_was(lake: Lake) -> None:
    fills = fills_at(*range(100, 130))
    simulated = SimulatedArchive(fills)
    with ScriptedServer(lambda path, body: as_json(simulated.respond(body))) as server:

        def source(progress: Progress):
            return goldsky(server.url, progress=progress, start=1, horizon=129, page_size=10)

        runs = 0
        while not lake.load("goldsky", source, budget=0.0).caught_up["order_filled_v1"]:
            runs += 1
        assert runs >= len(fills) // 10
        before = len(server.requests)
        lake.load("goldsky", source)
        assert len(server.requests) == before, "a finished archive is not asked again"
    assert lake.count("order_filled") == len(fills)


def test_pages_before_a_failure_are_kept(lake: Lake) -> None:
    fills = fills_at(*range(100, 130))
    simulated, calls = SimulatedArchive(fills), [0]

    def respond(path: str, body: bytes):
        calls[0] += 1
        return HTML if calls[0] in (3, 4, 5) else as_json(simulated.respond(body))

    with ScriptedServer(respond) as server:

        def source(progress: Progress):
            return goldsky(
                server.url, progress=progress, start=1, horizon=129, page_size=10, client=client()
            )

        with pytest.raises(NotJson) as caught:
            lake.load("goldsky", source)
        assert "(fills after 1970-01-01 00:0" in str(caught.value)
        assert "None" not in str(caught.value)
        assert lake.count("order_filled") == 20
        lake.load("goldsky", source)
    assert lake.count("order_filled") == len(fills)


def test_each_endpoint_has_its_own_cursor(lake: Lake) -> None:
    """Another deployment may have rows that the first one lacks; what both have stands once."""
    fills = fills_at(*range(100, 140))
    archives = {"/a": SimulatedArchive(fills[::2] + fills[-1:]), "/b": SimulatedArchive(fills)}
    with ScriptedServer(lambda path, body: as_json(archives[path].respond(body))) as server:
        for path, there in (
            ("/a", len(fills[::2] + fills[-1:]) - len(fills) % 2),
            ("/b", len(fills)),
        ):
            url = server.url + path
            lake.load("goldsky", lambda p, url=url: goldsky(url, progress=p, start=1, horizon=139))
            assert lake.count("order_filled", final=True) == there
        before = len(server.requests)
        lake.load("goldsky", lambda p: goldsky(server.url + "/a", progress=p, start=1, horizon=139))
        assert len(server.requests) == before, "what was read to its end is not read again"


def test_a_fill_of_the_future_does_not_move_the_cursor(lake: Lake) -> None:
    """It would be the last of its page, and everything between would be skipped for good."""
    simulated, broken = SimulatedArchive(fills_at(*range(100, 140))), [True]

    def respond(path: str, body: bytes):
        answer = simulated.respond(body)
        rows = answer["data"]["orderFilledEvents"]
        if broken[0] and rows:
            rows[-1] = rows[-1] | {"timestamp": str(2**32 - 1)}
        return as_json(answer)

    def source(progress: Progress):
        return goldsky(server.url, progress=progress, start=1, horizon=139, page_size=30)

    with ScriptedServer(respond) as server:
        with pytest.raises(WrongShape, match="a fill of the future"):
            lake.load("goldsky", source)
        broken[0] = False
        lake.load("goldsky", source)
    assert lake.count("order_filled") == len(
        simulated.respond(ALL_FILLS)["data"]["orderFilledEvents"]
    )
