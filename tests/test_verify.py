"""Verifying: what settles made is what raw makes, every kind of damage is found and named, and a loop is no disturbance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from worlds import (
    PATIENCE_S,
    all_fills,
    copy_rows,
    land,
    land_gamma,
    rows_of,
    settle_all,
    small_world,
)

from pipeline.derive import comparison
from pipeline.derive.comparison import Verdict, describe
from pipeline.derive.models import full_refresh_selects
from pipeline.derive.verify import verify, whole_days
from pipeline.errors import LoadFailed, NothingLoaded, NotSettled
from pipeline.jobs.crosscheck import TABLE, Totals, add_up, crosscheck
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.timerange import EARLIEST, LATEST, TimeRange
from pipeline.warehouse.run import Run, open_run
from sandbox.server import SandboxServer
from sandbox.world import World

DAY = timedelta(days=1)
TABLES = {
    "order_fills", "trades", "trades_by_token", "fills_by_wallet", "transaction_times",
    "ohlcv_1m", "ohlcv_1h", "ohlcv_1d", "market_latest_price", "traded_tokens",
    "markets", "events", "outcome_tokens", "market_history", "refused fills", "volume_daily",
}  # fmt: skip


@pytest.fixture(scope="module")
def world() -> World:
    return small_world(seed=9, matches=300)


@pytest.fixture(scope="session")
def template_selects(template: Settings) -> dict[str, str]:
    """The selects of the models under the template's names, because dbt takes seconds."""
    with open_run(template) as run:
        return full_refresh_selects(run)


@pytest.fixture(scope="module")
def settled_once(settled_by, world: World) -> Settings:
    def fill(run: Run) -> None:
        land_gamma(run, world)
        fills = all_fills(world)
        for part in (fills[::2], fills[1::2]):  # trades whose legs come apart are settled twice
            land(run, part)
            settle_all(run)

    return settled_by(fill)


@pytest.fixture
def settled(run: Run, settled_once: Settings) -> Run:
    copy_rows(run, settled_once)
    return run


@pytest.fixture
def check(settled: Run, template: Settings, template_selects: dict[str, str]):
    """Verifies the run, with these bounds; verdicts by table."""
    names = template.clickhouse_database, settled.settings.clickhouse_database
    selects = {model: text.replace(*names) for model, text in template_selects.items()}

    def verdicts(start: datetime | None = None, end: datetime | None = None) -> dict[str, Verdict]:
        return {each.table: each for each in verify(settled, lambda _: selects, start, end)}

    return verdicts


def different(verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
    return {table: each for table, each in verdicts.items() if not each.equal}


def test_what_settles_made_is_what_raw_makes(check, settled: Run, world: World) -> None:
    verdicts = check()
    assert different(verdicts) == {}
    assert verdicts.keys() == TABLES
    for table in TABLES - {"refused fills", "traded_tokens", "market_history"}:
        assert verdicts[table].rows == verdicts[table].expected == rows_of(settled, table) > 0
    settled.settings = settled.settings.model_copy(update={"settle_max_rows": 100})
    assert check() == verdicts  # in many small slices


def plant(store: str, replaced: str) -> str:
    """Statement that adds a copy of one row of a store, with other values."""
    first = f"from {{db}}{store} final order by all limit 1"
    return f"insert into {{db}}{store} select * replace ({replaced}) {first}"


def lose(store: str, key: str) -> str:
    """Statement that deletes every version of one row of a store."""
    first = f"(select ({key}) from {{db}}{store} final order by all limit 1)"
    return f"delete from {{db}}{store} where ({key}) = {first}"


FILL = "filled_at, tx_hash, log_index, order_hash"
CANDLE = "token_id, bucket_at"
WINS = "version + 1 as version"
DAMAGE = {  # what is done, the table that is wrong then, and words of the difference
    "a fill lost": (lose(".order_fills_store", FILL), "order_fills", "missing: filled_at "),
    "a fill changed": (
        plant(".order_fills_store", f"shares + 1 as shares, {WINS}"),
        "order_fills",
        "shares is ",
    ),
    "a trade of nothing": (
        plant(".trades_store", "'0xplanted' as tx_hash"),
        "trades",
        "not expected: filled_at ",
    ),
    "a trade on a day without fills": (
        plant(".trades_store", "filled_at - interval 300 day as filled_at"),
        "trades",
        "not expected: filled_at ",
    ),
    "a trade withdrawn": (
        plant(".trades_store", f"1 as is_deleted, {WINS}"),
        "trades",
        "missing: filled_at ",
    ),
    "a candle changed": (
        plant(".ohlcv_1m_store", f"open / 2 as open, {WINS}"),
        "ohlcv_1m",
        "open is ",
    ),
    "an hour lost": (lose(".ohlcv_1h_store", CANDLE), "ohlcv_1h", "missing: "),
    "a day's volume": (
        plant(".ohlcv_1d_store", f"volume_usd + 1 as volume_usd, {WINS}"),
        "volume_daily",
        "volume_usd is ",
    ),
    "a price": (
        plant(".market_latest_price_store", f"price / 2 as price, {WINS}"),
        "market_latest_price",
        "price is ",
    ),
    "a market": (
        plant(".markets_store", "'?' as question, fetched_at + 1 as fetched_at"),
        "markets",
        "question is ?",
    ),
    "a token lost": (
        lose(".outcome_tokens_store", "token_id"),
        "outcome_tokens",
        "missing: token_id ",
    ),
    "an event": (
        plant(".events_store", "'x' as event_id"),
        "events",
        "not expected: event_id x",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_named(check, settled: Run, damage: str) -> None:
    statement, table, words = DAMAGE[damage]
    settled.client.command(statement.format(db=settled.settings.clickhouse_database))
    wrong = different(check())
    assert wrong[table].differences >= 1
    assert words in wrong[table].examples[0]
    assert "\n" not in wrong[table].examples[0]


def test_fills_that_are_nowhere_are_found(check, settled: Run) -> None:
    """A fill of an exchange that is not known is a dead letter; if it is not, it was dropped in silence."""
    raw = settled.settings.raw_database
    replaced = "'0xunknown' as exchange, 'v2' as contract_version, '0xrefused' as tx_hash"
    settled.client.command(plant("_raw.order_filled", replaced).format(db=raw[: -len("_raw")]))
    assert different(check()) == {}
    settled.client.command(f"truncate table {raw}.dead_letter_sightings")
    wrong = different(check())
    assert list(wrong) == ["refused fills"]
    assert wrong["refused fills"].examples[0].startswith("missing: tx_hash 0xrefused")


def test_only_the_days_of_the_range_are_compared(check, settled: Run, world: World) -> None:
    models = settled.settings.clickhouse_database
    settled.client.command(f"truncate table {models}.ohlcv_1m_store")
    newest = datetime.fromtimestamp(max(fill.timestamp for fill in all_fills(world)), UTC)
    assert different(check(newest + DAY, newest + 2 * DAY)) == {}
    assert different(check(None, newest - 300 * DAY)) == {}
    wrong = different(check(newest, newest + timedelta(seconds=1)))
    assert list(wrong) == ["ohlcv_1m"]


def test_a_row_may_be_in_many_ways_wrong() -> None:
    names = ["token_id", "open", "close"]
    stored, derived = ["7", "0.5", "0.6"], ["7", "0.4", "0.6"]
    assert (
        describe(names, "token_id", [stored], [derived]) == "token_id 7: open is 0.5, should be 0.4"
    )
    assert describe(names, "token_id", [], [derived]) == "missing: token_id 7"
    assert describe(names, "token_id", [stored], []) == "not expected: token_id 7"
    assert describe(names, "token_id", [stored, derived], [derived]) == "stored 2 times: token_id 7"
    assert describe(names, "token_id", [], []) == "changed while it was looked at"


def test_the_same_differences_are_found_each_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is found twice counts, so of many differences the same must be named."""
    monkeypatch.setattr(comparison, "MOST_DIFFERENCES", 10)
    numbers = "(select number as n, {} as x from numbers_mt(1000000))"
    every = comparison.Comparison(
        table="numbers",
        stored=numbers.format(1),
        derived=numbers.format(2),
        key="n",
        columns={"n": "UInt64", "x": "UInt8"},
    )
    first, second = (comparison.find_differences(run, every, None)[2] for _ in range(2))
    assert len(first) == 10
    assert first == second == sorted(first, key=lambda each: each.key)


def test_ranges_are_whole_days() -> None:
    noon, midnight = datetime(2026, 5, 1, 12, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)
    assert whole_days(noon, noon + timedelta(hours=1)) == TimeRange(midnight, midnight + DAY)
    assert whole_days(midnight, midnight + DAY) == TimeRange(midnight, midnight + DAY)
    assert whole_days(None, None) == TimeRange(EARLIEST, LATEST)


# ---------- while others write


def test_loads_that_nobody_settles_are_said_so(check, settled: Run, world: World) -> None:
    land(settled, all_fills(world)[:10])
    with pytest.raises(NotSettled, match=r"1 loads are not settled.*settles them first"):
        check()


def test_a_load_that_is_being_settled_is_no_difference(
    check, run: Run, settled: Run, world: World
) -> None:
    """Rows of the chain land while a loop holds the lock, and are settled a moment later."""
    world.advance(50)
    new = [fill for match in world.matches for fill in match.legs][-100:]
    with settled.lock.held("loop"):
        land(settled, new)
        later = threading.Timer(1.0, settle_all, [settled])
        later.start()
        try:
            assert different(check()) == {}
        finally:
            later.join()
        # What no settle repairs stays a difference, loop or not.
        models = settled.settings.clickhouse_database
        settled.client.command(f"truncate table {models}.ohlcv_1d_store")
        assert "ohlcv_1d" in different(check())


def test_nothing_loaded_is_said_so(settings: Settings) -> None:
    with open_run(settings) as run, pytest.raises(NothingLoaded, match="nothing is loaded yet"):
        verify(run, lambda _: {}, None, None)


# ---------- Polymarket's own totals


@pytest.fixture
def asking(settled: Run, world: World) -> Iterator[Run]:
    with SandboxServer(world) as upstream:
        url = {"polymarket_data_url": upstream.urls.data_url}
        settled.settings = settled.settings.model_copy(update=url)
        yield settled


def test_totals_are_those_of_the_data_api(asking: Run) -> None:
    [verdict] = crosscheck(asking, None, None)
    assert verdict.table == TABLE
    assert verdict.equal and verdict.rows == verdict.expected > 100
    models = asking.settings.clickhouse_database
    asking.client.command(
        f"insert into {models}.trades_store"
        f" select * replace ('0xplanted' as tx_hash) from {models}.trades_store final"
        f" where token_id in (select token_id from {models}.outcome_tokens) order by filled_at limit 1"
    )
    [verdict] = crosscheck(asking, None, None)
    assert verdict.differences == 1
    assert "trades, " in verdict.examples[0] and "; the Data API has " in verdict.examples[0]


def test_what_is_not_loaded_is_not_compared_with_the_data_api(
    run: Run, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Two days apart are loaded of a longer history: what lies between is no difference."""
    land_gamma(run, world)
    fills = sorted(all_fills(world), key=lambda fill: fill.timestamp)
    fifth = len(fills) // 5
    ends = [fills[number * fifth].timestamp for number in (1, 2, 3, 4)]
    for first, after in (ends[:2], ends[2:]):
        land(run, [fill for fill in fills if first <= fill.timestamp < after])
    settle_all(run)
    with SandboxServer(world) as upstream:
        url = {"polymarket_data_url": upstream.urls.data_url}
        run.settings = run.settings.model_copy(update=url)
        [verdict] = crosscheck(run, None, None)
    assert verdict.equal, verdict.examples
    assert 0 < verdict.rows < len(fills)
    [warning] = [each for each in caplog.messages if "not loaded" in each]
    assert "`backfill --from 2026-" in warning


def test_without_its_url_the_data_api_is_not_asked(settled: Run) -> None:
    assert crosscheck(settled, None, None) == []


def test_a_data_api_that_does_not_answer_is_one_line(settled: Run) -> None:
    nowhere = {"polymarket_data_url": "http://127.0.0.1:9", "http_give_up_s": 0}
    settled.settings = settled.settings.model_copy(update=nowhere)
    with pytest.raises(LoadFailed, match=r"data_api: cannot connect.*unset POLYMARKET_DATA_URL"):
        crosscheck(settled, None, None)


def test_what_the_data_api_never_serves_is_not_compared(run: Run) -> None:
    """Trades under 0.01 share, and those of more than three years ago: V1 of a world that is read in 2029."""
    old = small_world(seed=7, matches=200, now=datetime(2029, 5, 20, tzinfo=UTC))
    land_gamma(run, old)
    land(run, all_fills(old))
    settle_all(run)
    trades = f"{run.settings.clickhouse_database}.trades where condition_id != ''"
    small, v1 = f"{trades} and shares < 0.01", f"{trades} and contract_version = 'v1'"
    for kind in (small, v1):
        assert run.client.query(f"select count() from {kind}").result_rows[0][0] > 0, kind
    with SandboxServer(old) as upstream:
        url = {"polymarket_data_url": upstream.urls.data_url}
        run.settings = run.settings.model_copy(update=url)
        [verdict] = crosscheck(run, None, None)
        assert verdict.equal and verdict.rows == verdict.expected > 20
        assert crosscheck(run, None, datetime(2026, 5, 1, tzinfo=UTC)) == []


def test_trades_outside_the_range_do_not_count() -> None:
    trades = [{"timestamp": at, "size": 2, "price": 0.25} for at in (9, 10, 20, 21)]
    assert add_up(iter(trades), [(10, 21)]) == Totals(2, 4, 1.0)


def test_trades_under_the_least_size_of_the_data_api_do_not_count() -> None:
    trades = [{"timestamp": 1, "size": size, "price": 0.5} for size in (0.009999, 0.01, 1)]
    assert add_up(iter(trades), [(0, 10)]) == Totals(2, 1.01, 0.505)


@pytest.mark.parametrize(
    ("theirs", "differs"),
    [
        (Totals(2, 10, 5), False),
        (Totals(2, 9, 4.5), False),  # after fees
        (Totals(2, 9.4, 4.7), False),  # some before, some after
        (Totals(2, 8.9, 4.5), True),
        (Totals(2, 10.1, 5), True),
        (Totals(2, 9, 4.4), True),
        (Totals(1, 10, 5), True),
    ],
)
def test_sizes_may_be_before_or_after_fees_in_shares(theirs: Totals, differs: bool) -> None:
    assert Totals(2, 10, 5, fee_shares=1, fee_usd=0.5).differs(theirs) == differs


# ---------- the verb


def call(settings: Settings, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), "verify", *arguments],
        env=os.environ
        | {
            "CLICKHOUSE_HOST": settings.clickhouse_host,
            "CLICKHOUSE_PORT": str(settings.clickhouse_port),
            "CLICKHOUSE_PASSWORD": settings.clickhouse_password.get_secret_value(),
            "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_the_verb_prints_a_line_per_table_and_fails_on_a_difference(settled: Run) -> None:
    """With the selects that dbt compiles, as users have them."""
    good = call(settled.settings, "--json")
    assert good.returncode == 0, good.stderr
    answer = json.loads(good.stdout)
    assert answer["equal"] and {each["table"] for each in answer["tables"]} == TABLES

    models = settled.settings.clickhouse_database
    settled.client.command(f"truncate table {models}.market_latest_price_store")
    bad = call(settled.settings)
    assert bad.returncode == 1
    assert "DIFFERENT" in bad.stdout and "  market_latest_price: missing: token_id " in bad.stdout
    assert bad.stderr.splitlines()[-1].startswith("market_latest_price: not what they should be")


@pytest.mark.parametrize("bounds", [("soon", None), ("2026-05-02", "2026-05-01")])
def test_a_bad_range_is_exit_code_2(settings: Settings, bounds: tuple[str, str | None]) -> None:
    arguments = ["--from", bounds[0], *(["--to", bounds[1]] if bounds[1] else [])]
    answer = call(settings, *arguments)
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (2, "", 1)
