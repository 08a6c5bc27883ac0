"""Prices from the CLOB: batches, refused tokens, exact decimals, dead letters, and a cycle through the real engine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import assert_equals_truth, rows_of, small_world

from ingest.errors import IngestError, RateLimited, SourceFrozen, TokensRefused, WrongShape
from ingest.http import HttpClient
from ingest.progress import Progress
from ingest.records import BadRecord, decode_batch
from ingest.retries import RetryPolicy
from ingest.sources.clob.landed import Tracked, busiest_tokens
from ingest.sources.clob.reader import LEFT_OUT_S, MOST_REFUSED, Refused, streams
from ingest.sources.clob.records import observations, price, prices_table
from ingest.sources.clob.source import PRICES
from pipeline.jobs.cycle import run_cycle
from pipeline.jobs.replay import replay
from pipeline.warehouse.run import Run
from sandbox.clob import Quote, open_quotes
from sandbox.server import SandboxServer
from sandbox.world import World

AT = datetime(2026, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
QUICK = RetryPolicy(attempts=2, first_wait=0.001, longest_wait=0.001)


class Clob(HttpClient):
    """A CLOB without a network: quotes every token at 0.4 to 0.6, but for those that it refuses or does not know."""

    def __init__(self, refused: Sequence[str] = (), unknown: Sequence[str] = ()) -> None:
        super().__init__("prices", retry=QUICK, sleep=lambda seconds: None)
        self.refused, self.unknown = set(refused), set(unknown)
        self.asked: list[tuple[str, list[str], int]] = []  # path, tokens, entries

    def post_json(self, url: str, body: Any, **how: Any) -> Any:
        path, tokens = url.removeprefix("http://clob"), [entry["token_id"] for entry in body]
        tokens = list(dict.fromkeys(tokens))
        self.asked.append((path, tokens, len(body)))
        if self.refused & set(tokens) or len(body) > 500:
            raise how["refusal"](400, b"Invalid payload")
        known = [token for token in tokens if token not in self.unknown]
        if path == "/prices":
            sides = {(entry["token_id"], entry["side"]) for entry in body}
            assert sides == {(token, side) for token in tokens for side in ("BUY", "SELL")}
        value = {"/prices": {"BUY": "0.4", "SELL": "0.6"}, "/midpoints": "0.5", "/spreads": "0.2"}
        return dict.fromkeys(known, value[path])


def read(client: HttpClient, tokens: Sequence[str], **options: Any) -> tuple[list[dict], Any]:
    """Rows and dead letters of a reading, and its progress."""
    progress = options.pop("progress", Progress())
    (stream,) = streams(
        options.pop("url", "http://clob"),
        progress=progress,
        tokens=tokens,
        client=client,
        **options,
    )
    pages = list(stream.read({}))
    rows = [row for page in pages for table in page.rows for row in table.to_pylist()]
    return rows, ([letter for page in pages for letter in page.dead], progress)


# -- batches ---


def test_two_sides_of_a_token_are_two_of_the_entries_that_a_request_may_have() -> None:
    client, tokens = Clob(), [str(number) for number in range(1, 1101)]
    rows, (dead, progress) = read(client, tokens, now=lambda: AT)
    assert [row["token_id"] for row in rows] == tokens
    assert {row["observed_at"] for row in rows} == {AT}
    assert set(rows[0]) == {"token_id", "observed_at", "bid", "ask", "mid", "spread", "load_id"}
    assert (rows[0]["bid"], rows[0]["ask"]) == (Decimal("0.4"), Decimal("0.6"))
    assert (rows[0]["mid"], rows[0]["spread"]) == (Decimal("0.5"), Decimal("0.2"))
    sizes = [(path, entries) for path, _, entries in client.asked]
    of_a_batch = [("/prices", 500), ("/prices", 500), ("/midpoints", 500), ("/spreads", 500)]
    assert sizes == of_a_batch * 2 + [("/prices", 200), ("/midpoints", 100), ("/spreads", 100)]
    assert dead == [] and progress.failures == [] and progress.caught_up == {"market_prices": True}


def test_a_batch_carries_the_time_of_its_last_answer() -> None:
    client, times = Clob(), iter([AT, AT + timedelta(seconds=1)])
    moments: list[int] = []

    def now() -> datetime:
        moments.append(len(client.asked))
        return next(times)

    rows, _ = read(client, ["1", "2", "3"], batch=2, now=now)
    assert [row["observed_at"] for row in rows] == [AT, AT, AT + timedelta(seconds=1)]
    assert moments == [3, 6]


def test_tokens_without_a_book_get_no_row() -> None:
    rows, (dead, progress) = read(Clob(unknown=["2"]), ["1", "2", "3", "1"])
    assert [row["token_id"] for row in rows] == ["1", "3"]
    assert dead == [] and progress.failures == []


def test_prices_of_none_are_an_upstream_that_has_stopped() -> None:
    rows, (_, progress) = read(Clob(unknown=["1", "2"]), ["1", "2"])
    assert rows == []
    assert [type(failure) for failure in progress.failures] == [SourceFrozen]
    assert "no prices of any of 2 tokens" in str(progress.failures[0])
    assert progress.caught_up == {"market_prices": False}
    assert read(Clob(), [])[1][1].failures == []  # nothing is open, nothing is asked


def test_a_budget_that_is_used_up_ends_a_run_between_batches() -> None:
    progress = Progress(0.0)
    rows, _ = read(Clob(), ["1", "2", "3"], batch=2, progress=progress)
    assert [row["token_id"] for row in rows] == ["1", "2"]
    assert progress.caught_up == {"market_prices": False}


# -- tokens that are refused ---


@given(
    count=st.integers(2, 300),
    bad=st.sets(st.integers(0, 299), max_size=MOST_REFUSED),
    batch=st.sampled_from([500, 100, 7]),
)
def test_a_refused_token_takes_none_of_its_neighbours_with_it(
    count: int, bad: set[int], batch: int
) -> None:
    tokens = [str(number) for number in range(count)]
    refused = [str(number) for number in bad if number < count]
    client = Clob(refused)
    rows, (dead, progress) = read(client, tokens, batch=batch)
    whole = [tokens[at : at + batch] for at in range(0, count, batch)]
    lost = {token for part in whole if set(part) <= set(refused) for token in part}
    assert {row["token_id"] for row in rows} == set(tokens) - set(refused)
    assert bool(progress.failures) == bool(
        lost
    )  # a batch of nothing else: it may not be the tokens
    letters = {orjson.loads(letter.payload)["token_id"] for letter in dead}
    assert letters == set(refused) - lost
    assert {letter.reason for letter in dead} <= {"refused_token"}


def test_a_refused_token_is_left_alone_for_an_hour() -> None:
    clock = [0.0]
    refused, client = Refused(lambda: clock[0]), Clob(["3"])
    tokens = [str(number) for number in range(8)]
    assert len(read(client, tokens, refused=refused)[1][0]) == 1
    client.asked.clear()
    for clock[0], requests in ((LEFT_OUT_S - 1, 3), (LEFT_OUT_S, 9)):
        client.asked.clear()
        assert len(read(client, tokens, refused=refused)[0]) == 7
        assert len(client.asked) == requests
    client.refused.clear()
    clock[0] = 3 * LEFT_OUT_S
    assert len(read(client, tokens, refused=refused)[0]) == 8


def test_a_refused_token_that_is_alone_in_the_last_batch_is_left_alone_too() -> None:
    """The batches before it were answered, so it is the token."""
    refused, client = Refused(), Clob(["4"])
    tokens = [str(number) for number in range(5)]
    rows, (_, progress) = read(client, tokens, batch=2, refused=refused)
    assert len(rows) == 4 and progress.failures
    rows, (_, progress) = read(client, tokens, batch=2, refused=refused)
    assert len(rows) == 4 and not progress.failures


def test_whatever_is_refused_is_no_token_s_fault() -> None:
    tokens = [str(number) for number in range(500)]
    client, refused = Clob(tokens), Refused()
    rows, (dead, progress) = read(client, tokens, refused=refused)
    assert (rows, dead) == ([], [])
    assert [type(failure) for failure in progress.failures] == [TokensRefused]
    assert "Invalid payload" in str(progress.failures[0])
    assert len(client.asked) < 60
    assert refused.without(tokens) == tokens


# -- values ---


@given(st.integers(0, 10**9), st.integers(0, 9))
def test_prices_are_exact(units: int, zeros: int) -> None:
    number = Decimal(units).scaleb(-9)
    text = format(number, "f")
    written = text + "0" * zeros if "." in text else text
    found = price("bid", written)
    assert found == number
    record = {"token_id": "1", "observed_at": AT.isoformat(), "midpoint": None, "spread": None}
    table = prices_table([record | {"prices": {"BUY": written}}])
    assert table.to_pylist()[0]["bid"] == number


@given(st.integers(0, 10**6))
def test_json_numbers_are_what_was_written(units: int) -> None:
    text = format(Decimal(units).scaleb(-6).normalize(), "f")
    assert price("mid", orjson.loads(text)) == Decimal(text)


@pytest.mark.parametrize("value", [None, ""])
def test_no_price_is_null(value: Any) -> None:
    assert price("ask", value) is None


@pytest.mark.parametrize(
    "value",
    ["soon", "NaN", "Infinity", "1_0", " 0.5", "0x1", True, [], {}, "0.5¢", "0.1234567891", "٠.٥", 1e-12],
)  # fmt: skip
def test_what_is_no_price_is_refused(value: Any) -> None:
    with pytest.raises(BadRecord, match="ask") as refusal:
        price("ask", value)
    assert refusal.value.reason == "bad_field"


@pytest.mark.parametrize("value", ["-0.01", "1.01", 2, "1e99", "-1e99", 10**18])
def test_prices_are_between_0_and_1(value: Any) -> None:
    with pytest.raises(BadRecord) as refusal:
        price("bid", value)
    assert refusal.value.reason == "amount_out_of_range"


def test_a_crossed_book_has_a_spread_below_0() -> None:
    assert price("spread", "-0.01", least=-1) == Decimal("-0.01")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["0.5", "1", "0", 0.25]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
SIDES = st.dictionaries(st.sampled_from(["BUY", "SELL", "HOLD"]), JSON, max_size=2)


def says(value: Any) -> bool:
    return any(map(says, value.values())) if isinstance(value, dict) else value not in (None, "")


@given(
    st.dictionaries(
        st.sampled_from("123456"), st.tuples(SIDES | JSON, JSON, JSON), min_size=1, max_size=6
    )
)
def test_any_answer_makes_rows_and_dead_letters(answers: dict[str, tuple]) -> None:
    """One for each token of which something was said, and a letter holds what was received."""
    parts = [{token: values[at] for token, values in answers.items()} for at in range(3)]
    records = observations(list("123456"), AT, *parts)
    tables, dead = decode_batch(records, prices_table)
    said = [token for token in "123456" if any(map(says, answers.get(token, ())))]
    tokens = [token for table in tables for token in table.column("token_id").to_pylist()]
    letters = [orjson.loads(letter.payload) for letter in dead]
    assert sorted(tokens + [letter["token_id"] for letter in letters]) == said
    for letter in letters:
        assert letter in orjson.loads(orjson.dumps(records))
    for row in (row for table in tables for row in table.to_pylist()):
        assert {row["bid"], row["ask"], row["mid"], row["spread"]} != {None}


# -- over HTTP ---


@pytest.fixture(scope="module")
def upstream() -> Iterator[SandboxServer]:
    with SandboxServer(small_world(seed=4)) as server:
        yield server


@pytest.fixture
def faulty(upstream: SandboxServer) -> Iterator[Callable[..., tuple[list[dict], Any]]]:
    """Reads every open token of the world, with a fault on."""

    def reading(fault: str = "", **options: Any) -> tuple[list[dict], Any]:
        if fault:
            upstream.app.faults.add(fault, sources=["clob"])
        client = HttpClient("prices", timeout=(5, 5), retry=QUICK)
        tokens = sorted(open_quotes(upstream.world))
        return read(client, tokens, url=upstream.urls.clob_url, **options)

    yield reading
    upstream.app.faults.clear()


def quoted(rows: list[dict]) -> dict[str, Quote]:
    return {row["token_id"]: Quote(*(row[name] for name in Quote._fields)) for row in rows}


def test_bids_are_below_asks_and_both_are_the_world_s(
    upstream: SandboxServer, faulty: Callable[..., Any]
) -> None:
    rows, (dead, progress) = faulty()
    assert quoted(rows) == open_quotes(upstream.world)
    assert len(rows) > 30 and dead == [] and progress.failures == []
    assert all(row["bid"] < row["ask"] for row in rows if row["bid"] and row["ask"])


@pytest.mark.parametrize("fault", ["number-prices", "stale-prices"])
def test_faults_that_change_nothing(
    upstream: SandboxServer, faulty: Callable[..., Any], fault: str
) -> None:
    rows, (dead, progress) = faulty(fault)
    assert quoted(rows) == open_quotes(upstream.world)
    assert dead == [] and progress.failures == []


def test_a_crossed_book_is_kept_as_it_is(
    upstream: SandboxServer, faulty: Callable[..., Any]
) -> None:
    world = open_quotes(upstream.world)
    rows, (dead, _) = faulty("crossed-book")
    both = {token: quote for token, quote in world.items() if quote.mid is not None}
    assert dead == [] and {row["token_id"] for row in rows} == set(world)
    found = quoted(rows)
    assert all((found[t].bid, found[t].ask) == (q.ask, q.bid) for t, q in both.items())


def test_a_side_that_is_missing_is_null(faulty: Callable[..., Any]) -> None:
    rows, (dead, _) = faulty("one-sided-book")
    assert dead == []
    assert all((row["bid"] is None) or (row["ask"] is None) for row in rows)


def test_odd_prices_are_dead_letters_that_replay_at_their_time(
    upstream: SandboxServer, faulty: Callable[..., Any]
) -> None:
    rows, (dead, progress) = faulty("odd-prices", now=lambda: AT)
    world = open_quotes(upstream.world)
    assert progress.failures == []
    assert len(rows) + len(dead) == len(world) and len(dead) > 5
    assert {letter.reason for letter in dead} == {"bad_field", "amount_out_of_range"}
    assert quoted(rows).items() <= world.items()
    letter = orjson.loads(dead[0].payload)
    mended = letter | {"prices": {"BUY": "0.1"}, "midpoint": None, "spread": "0.2"}
    ((table,), still) = PRICES.letters["prices"].parse(mended, AT + timedelta(days=1))
    assert still == []
    assert table.to_pylist()[0]["observed_at"] == AT
    assert PRICES.letters["prices"].parse(letter, AT)[1][0].reason == dead[0].reason


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("no-prices", SourceFrozen, "no prices of any of [0-9]+ tokens"),
        ("wrong-shape", WrongShape, "an answer about 'status', which was not asked for"),
        ("rate-limited", RateLimited, "rate limited"),
    ],
)
def test_faults_that_are_named(
    faulty: Callable[..., Any], fault: str, error: type[IngestError], words: str
) -> None:
    rows, (dead, progress) = faulty(fault)
    assert (rows, dead) == ([], [])
    assert [type(failure) for failure in progress.failures] == [error]
    assert re.search(words, str(progress.failures[0]))


# -- in ClickHouse ---


Reading = Callable[..., Any]


@contextmanager
def reading(reading_from: Reading, world: World, **settings: Any) -> Iterator[tuple[Run, Any]]:
    settings = {"sources": "gamma,goldsky,polygon,prices", "tracked_every_s": 0.001} | settings
    with SandboxServer(world) as server, reading_from(server, **settings) as run:
        yield run, server


def cycle(run: Run) -> int:
    """Rows of market_prices that a cycle brings."""
    with run.lock.held("test"):
        report = run_cycle(run)
        report.raise_failures()
    return report.rows["market_prices"]


def test_cycles_bring_what_is_quoted_whenever_they_read(reading_from: Reading) -> None:
    world = small_world(seed=6)
    with reading(reading_from, world) as (run, _):
        models, raw = run.settings.clickhouse_database, run.settings.raw_database
        assert cycle(run) == 0  # no market has landed yet
        first = cycle(run)
        world.advance(40)
        cycle(run)  # markets that are new are asked about from the next one on
        last = cycle(run)
        assert first > 20 and last > 20
        assert_equals_truth(run, world)
        newest = run.client.query(
            f"select token_id, argMax((bid, ask, mid, spread), observed_at) from {models}.market_prices"
            " group by token_id having max(observed_at) = (select max(observed_at) from {db}.market_prices)".replace(
                "{db}", models
            )
        ).result_rows
        there = open_quotes(world)
        assert len(newest) == last
        assert all(tuple(there[token])[1:] == values for token, values in newest)
        # Staging and the promised table are raw, one row per key, also where rows came twice.
        raw_rows = rows_of(run, "market_prices")
        run.client.command(f"insert into {raw}.market_prices select * from {raw}.market_prices")
        columns = "token_id, observed_at, bid, ask, mid, spread, load_id"
        query = f"select {columns} from %s order by all"
        landed = run.client.query(query % f"(select distinct * from {raw}.market_prices)")
        staged = run.client.query(query % f"{models}.stg_polymarket__market_prices")
        assert staged.result_rows == landed.result_rows
        assert len(staged.result_rows) == rows_of(run, "market_prices") == raw_rows
        load_states = run.client.query(
            f"select distinct state from {raw}.loads final where table_name = 'market_prices'"
        ).result_rows
        assert len(load_states) <= 1


def test_the_busiest_open_markets_are_tracked(reading_from: Reading) -> None:
    world = small_world(seed=7)
    with reading(reading_from, world, tracked_markets=3) as (run, _):
        cycle(run)
        brought = cycle(run)
        models = run.settings.clickhouse_database
        assert 0 < brought <= 3 * 4  # two outcomes, and before a move to ExchangeV3 two others
        everything = busiest_tokens(run.desk.landed, 10_000)
        few = busiest_tokens(run.desk.landed, 3)
        assert everything[: len(few)] == few and len(everything) == len(set(everything))
        assert 3 * 2 <= len(few) <= 3 * 4
        assert set(everything) >= {
            token for (token,) in run.client.query(f"select token_id from {models}.market_prices").result_rows
        }  # fmt: skip
        volumes = run.client.query(
            f"select market_id, volume_usd_24h from {models}.markets where not closed and notEmpty(token_ids)"
            " order by volume_usd_24h desc nulls last, volume_usd desc, market_id limit 3"
        ).result_rows
        markets = run.client.query(
            f"select distinct market_id from {models}.outcome_tokens where token_id in {{few:Array(String)}}",
            parameters={"few": few},
        ).result_rows
        assert {market for (market,) in markets} == {market for market, _ in volumes}


def test_the_list_is_made_anew_when_it_is_old_or_empty() -> None:
    class Landed:
        asked = 0
        found: list[list[list[str]]]

        def rows(self, sql: str, parameters: Any = None) -> Any:
            self.asked += 1
            return self.found

    clock, landed = [0.0], Landed()
    tracked = Tracked(lambda: clock[0])
    landed.found = []
    assert tracked.tokens(landed, 5, 300) == tracked.tokens(landed, 5, 300) == []
    assert landed.asked == 2
    landed.found = [[["1", "2"]], [["3", "1"]]]
    assert tracked.tokens(landed, 5, 300) == ["1", "2", "3"]
    clock[0] = 299
    tracked.tokens(landed, 5, 300)
    assert landed.asked == 3
    clock[0] = 300
    tracked.tokens(landed, 5, 300)
    assert landed.asked == 4


def test_letters_are_replayed_into_their_table(reading_from: Reading) -> None:
    with reading(reading_from, small_world(seed=8)) as (run, server):
        raw = run.settings.raw_database
        cycle(run)
        server.app.faults.add("odd-prices", sources=["clob"])
        cycle(run)
        letters = run.client.query(
            f"select payload from {raw}.dead_letters where source = 'prices'"
        ).result_rows
        assert len(letters) > 5
        assert replay(run, "prices", None).landed.total() == 0  # nothing was mended
        mended = json.loads(letters[0][0]) | {"prices": {"BUY": "0.1"}, "midpoint": None}
        mended["spread"] = None
        run.client.command(
            f"insert into {raw}.dead_letter_sightings (source, reason, payload_hash, detail, payload, seen_at, load_id)"
            " values ('prices', 'bad_field', 1, 'x', {payload:String}, now64(6), 1)",
            parameters={"payload": json.dumps(mended)},
        )
        assert replay(run, "prices", None).landed.total() == 1
        at, bid = run.client.query(
            f"select observed_at, bid from {raw}.market_prices where token_id = {{token:String}} and bid = 0.1"
            " and ask is null",
            parameters={"token": mended["token_id"]},
        ).result_rows[0]
        assert (at.replace(tzinfo=UTC).isoformat(), bid) == (mended["observed_at"], Decimal("0.1"))
