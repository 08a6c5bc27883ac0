"""Replaying dead letters: what parses now is landed and settled, what does not stays, and nothing is replaced or doubled."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from worlds import (
    PATIENCE_S,
    all_fills,
    assert_equals_truth,
    land,
    land_gamma,
    make_settings,
    prepared,
    rows_of,
    sandbox_settings,
    settle_all,
    small_world,
)

from embedded_clickhouse import Endpoint
from ingest import contracts
from ingest.records import content_hash
from ingest.sources.polygon.logs import decode_logs
from pipeline.errors import LoadFailed, LockHeld
from pipeline.jobs.cycle import run_cycle
from pipeline.jobs.replay import Replay, merge_hours, replay
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.timerange import TimeRange
from pipeline.verbs.status import read_status
from pipeline.warehouse.run import Run
from sandbox.contracts import Fill, log_of
from sandbox.goldsky import _FIELDS as ARCHIVE_FIELDS
from sandbox.server import AppServer, SandboxServer, Urls, build_app
from sandbox.world import World

YESTERDAY = datetime.now(UTC) - timedelta(days=1)
LETTERS = 12  # fills of each generation that are held back


@pytest.fixture(scope="module")
def world() -> World:
    return small_world(seed=8, matches=150)


@pytest.fixture(scope="module")
def upstream(world: World) -> Iterator[SandboxServer]:
    with SandboxServer(world) as server:
        yield server


@pytest.fixture
def reading(reading_from, upstream: SandboxServer) -> Iterator[Run]:
    """A run whose markets are landed, and whose node and archive are those of the world."""
    with reading_from(upstream) as run:
        land_gamma(run, upstream.world)
        yield run


def as_read(world: World, fill: Fill) -> tuple[str, dict[str, Any]]:
    """The source of a fill, and the record that it sends."""
    if fill.version == "v1":
        return "goldsky", {name: field(fill) for name, field in ARCHIVE_FIELDS.items()}
    block_hash = world.chain.block_hash(fill.block_number)
    return "polygon", log_of(fill, block_hash, with_timestamp=True)


def see(
    run: Run,
    source: str,
    records: list[Any],
    *,
    reason: str = "bad_field",
    seen_at: datetime | None = None,
) -> None:
    """Put records on the list, as a source does whose parser refused them."""
    payloads = [json.dumps(each) for each in records]
    run.client.insert(
        "dead_letter_sightings",
        [
            [
                source,
                reason,
                content_hash(each.encode()),
                "not read",
                each,
                seen_at or datetime.now(UTC),
                1,
            ]
            for each in payloads
        ],
        database=run.settings.raw_database,
    )


def hold_back(run: Run, world: World) -> list[Fill]:
    """Land a world but for some fills of each generation, which become dead letters; return those."""
    fills = all_fills(world)
    v1 = [fill for fill in fills if fill.version == "v1"][5 : 5 + LETTERS]
    v2 = [fill for fill in fills if fill.version == "v2"][5 : 5 + LETTERS]
    held = v1 + v2
    kept = {fill.order_hash + fill.tx_hash for fill in held}
    land(run, [fill for fill in fills if fill.order_hash + fill.tx_hash not in kept])
    settle_all(run)
    for fill in held:
        source, record = as_read(world, fill)
        see(run, source, [record])
    return held


def open_letters(run: Run) -> int:
    return run.client.query(
        f"select count() from {run.settings.raw_database}.dead_letters"
    ).result_rows[0][0]


def counts(report: Replay) -> dict[str, dict[tuple[str, str], int]]:
    """The outcomes that happened."""
    return {name: dict(counter) for name, counter in vars(report).items() if counter}


# ---------- what parses now


def test_what_parses_now_is_landed_and_everything_derived_from_it(
    reading: Run, world: World
) -> None:
    hold_back(reading, world)
    see(reading, "polygon", [{"topics": []}, "nothing"], reason="unknown_contract")
    report = replay(reading, None, None)
    assert counts(report) == {
        "landed": {("goldsky", "bad_field"): LETTERS, ("polygon", "bad_field"): LETTERS},
        "refused": {("polygon", "unknown_contract"): 1, ("polygon", "not_an_object"): 1},
    }
    assert_equals_truth(reading, world)
    assert reading.ledger.unsettled() == []
    assert open_letters(reading) == 2
    assert rows_of(reading, "trades") == len(world.matches)
    sightings = reading.client.command(
        f"select count() from {reading.settings.raw_database}.dead_letter_sightings"
    )
    assert sightings == 2 * LETTERS + 2  # what was seen stays written down
    again = replay(reading, None, None)
    assert counts(again) == {
        "refused": {("polygon", "unknown_contract"): 1, ("polygon", "not_an_object"): 1}
    }


def test_only_what_was_asked_for_is_taken_up(reading: Run, world: World) -> None:
    hold_back(reading, world)
    see(reading, "goldsky", [{"id": "0x1"}], reason="missing_field")
    assert replay(reading, "polygon", None).landed == {("polygon", "bad_field"): LETTERS}
    assert replay(reading, None, "missing_field").refused == {("goldsky", "missing_field"): 1}
    assert replay(reading, "goldsky", "no such reason").letters == 0
    assert replay(reading, "goldsky", "bad_field").landed == {("goldsky", "bad_field"): LETTERS}
    assert_equals_truth(reading, world)


def test_a_row_that_came_meanwhile_is_not_replaced_by_its_letter(
    reading: Run, world: World
) -> None:
    """The upstream sent one amount wrong at first, and the fill again later as it should be."""
    fill = all_fills(world)[-1]
    land(reading, all_fills(world))
    settle_all(reading)
    source, record = as_read(world, fill)
    wrong = int(record["data"][-1], 16) ^ 1
    see(reading, source, [record | {"data": f"{record['data'][:-1]}{wrong:x}"}])
    assert counts(replay(reading, None, None)) == {"known": {("polygon", "bad_field"): 1}}
    assert open_letters(reading) == 0
    assert_equals_truth(reading, world)


def test_a_log_whose_block_left_the_chain_is_not_landed(reading: Run, world: World) -> None:
    """It was read again in the block that replaced it: landed from its letter it would stand twice."""
    land(reading, all_fills(world))
    settle_all(reading)
    _, record = as_read(world, all_fills(world)[-1])
    moved = record | {"blockHash": f"0x{7:064x}", "logIndex": "0xfff"}
    see(reading, "polygon", [moved])
    assert counts(replay(reading, None, None)) == {"gone": {("polygon", "bad_field"): 1}}
    assert open_letters(reading) == 0
    assert_equals_truth(reading, world)


def test_an_old_version_of_a_market_does_not_become_the_current_one(
    reading: Run, world: World
) -> None:
    models = reading.settings.clickhouse_database
    [(text,)] = reading.client.query(
        f"select payload from {reading.settings.raw_database}.markets limit 1"
    ).result_rows
    payload = json.loads(text)
    see(reading, "gamma_markets", [payload | {"question": "An older one?"}], seen_at=YESTERDAY)
    see(reading, "gamma_events", [{"id": "9000", "title": "New here"}], seen_at=YESTERDAY)
    assert replay(reading, None, None).landed.total() == 2
    asked = {"id": payload["id"]}
    current = "select question from {}.markets where market_id = {{id:String}}"
    assert reading.client.query(current.format(models), parameters=asked).result_rows == [
        (payload["question"],)
    ]
    history = "select question from {}.market_history_store final where market_id = {{id:String}} order by fetched_at"
    assert reading.client.query(history.format(models), parameters=asked).result_rows == [
        ("An older one?",),
        (payload["question"],),
    ]
    title = reading.client.command(f"select title from {models}.events where event_id = '9000'")
    assert title == "New here"


@pytest.mark.parametrize("updated_s", [-60, 60], ids=["older", "newer"])
def test_a_letter_is_placed_by_the_times_of_gamma_where_clocks_say_otherwise(
    reading: Run, world: World, updated_s: int
) -> None:
    """It was read while the clock was an hour ahead, or the stored version was."""
    raw, models = reading.settings.raw_database, reading.settings.clickhouse_database
    [(text, read_at, updated_at)] = reading.client.query(
        f"select payload, fetched_at, updated_at from {raw}.markets"
        " where updated_at is not null order by updated_at limit 1"
    ).result_rows
    payload = json.loads(text)
    changed = {
        "question": "Another?",
        "updatedAt": (updated_at + timedelta(seconds=updated_s)).isoformat(),
    }
    seen_at = read_at.replace(tzinfo=UTC) + timedelta(hours=1 if updated_s < 0 else -1)
    for _ in range(2):  # killed before the letter was taken off the list, and done again
        see(reading, "gamma_markets", [payload | changed], seen_at=seen_at)
        replay(reading, None, None)
        reading.client.command(f"truncate table {raw}.dead_letter_replays")
        asked = {"id": payload["id"]}
        current = f"select question from {models}.markets where market_id = {{id:String}}"
        history = f"select count() from {models}.market_history where market_id = {{id:String}}"
        expected = "Another?" if updated_s > 0 else payload["question"]
        assert reading.client.query(current, parameters=asked).result_rows == [(expected,)]
        assert reading.client.query(history, parameters=asked).result_rows == [(2,)]


def test_killed_before_the_letters_were_taken_off_the_list(reading: Run, world: World) -> None:
    hold_back(reading, world)
    replay(reading, None, None)
    reading.client.command(f"truncate table {reading.settings.raw_database}.dead_letter_replays")
    assert replay(reading, None, None).known.total() == 2 * LETTERS
    assert_equals_truth(reading, world)


def test_logs_of_an_exchange_that_is_known_by_now_are_landed(
    reading: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before ExchangeV3 was known, its logs were found by their topic and kept as dead letters."""
    fills = all_fills(world)
    v3 = [fill for fill in fills if fill.version == "v3"]
    land(reading, [fill for fill in fills if fill.version != "v3"])
    settle_all(reading)
    logs = [as_read(world, fill)[1] for fill in v3]
    with monkeypatch.context() as before:
        before.delitem(contracts.EXCHANGES, v3[0].exchange)
        tables, letters = decode_logs(logs, source="polygon")
        assert tables == []
        assert {letter.reason for letter in letters} == {"unknown_contract"}
        see(
            reading,
            "polygon",
            [json.loads(letter.payload) for letter in letters],
            reason="unknown_contract",
        )
        unknown = {("polygon", "unknown_contract"): len(v3)}
        assert counts(replay(reading, None, None)) == {"refused": unknown}
    assert counts(replay(reading, None, None)) == {"landed": unknown}
    assert open_letters(reading) == 0
    assert_equals_truth(reading, world)


# ---------- fills that SQL refused


def with_exchanges(run: Run, change: Callable[[str], str]) -> None:
    """Make the models anew that know the exchanges, with a change in their text."""
    for name in ("stg_polymarket__order_filled", "order_fills_mv", "refused_fills_mv"):
        text = run.client.command(
            f"select create_table_query from system.tables where name = '{name}'"
            f" and database = '{run.settings.clickhouse_database}' format TSVRaw"
        )
        changed = change(text)
        assert changed != text
        run.client.command(f"drop view {run.settings.clickhouse_database}.{name}")
        run.client.command(changed)


def test_fills_of_an_exchange_that_is_known_by_now_are_derived(reading: Run, world: World) -> None:
    exchange = next(fill.exchange for fill in all_fills(world) if fill.version == "v2")
    old, new = f"('v2', '{exchange}')", f"('v2', '0x{7:040x}')"
    with_exchanges(reading, lambda text: text.replace(old, new))
    land(reading, all_fills(world))
    settle_all(reading)
    refused = sum(fill.exchange == exchange for fill in all_fills(world))
    assert 0 < refused == len(all_fills(world)) - rows_of(reading, "order_fills")
    assert open_letters(reading) == refused
    unknown = {("polygon", "unknown_exchange"): refused}
    assert counts(replay(reading, None, None)) == {"refused": unknown}

    with_exchanges(reading, lambda text: text.replace(new, old))
    assert counts(replay(reading, None, None, dry_run=True)) == {"derived": unknown}
    assert open_letters(reading) == refused
    assert counts(replay(reading, "polygon", "unknown_exchange")) == {"derived": unknown}
    assert open_letters(reading) == 0
    assert_equals_truth(reading, world)


def test_hours_beside_each_other_are_one_range() -> None:
    hours = [datetime(2026, 5, 1, hour, tzinfo=UTC) for hour in (3, 1, 2, 7)]
    assert merge_hours(hours) == [
        TimeRange(datetime(2026, 5, 1, 1, tzinfo=UTC), datetime(2026, 5, 1, 4, tzinfo=UTC)),
        TimeRange(datetime(2026, 5, 1, 7, tzinfo=UTC), datetime(2026, 5, 1, 8, tzinfo=UTC)),
    ]
    assert merge_hours([]) == []


# ---------- what it leaves alone


def test_a_dry_run_writes_nothing(reading: Run, world: World) -> None:
    hold_back(reading, world)
    fills, letters = rows_of(reading, "order_fills"), open_letters(reading)
    with reading.lock.held("loop"):
        assert replay(reading, None, None, dry_run=True).landed.total() == 2 * LETTERS
        with pytest.raises(LockHeld):
            replay(reading, None, None)
    assert (rows_of(reading, "order_fills"), open_letters(reading)) == (fills, letters)


def test_without_the_node_no_letter_of_the_chain_is_taken_up(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path, template: Settings, world: World
) -> None:
    settings = make_settings(clickhouse, database_prefix, tmp_path, http_give_up_s=0)
    with prepared(settings, template) as run:
        see(run, "polygon", [as_read(world, all_fills(world)[-1])[1]])
        with pytest.raises(
            LoadFailed, match=r"polygon: cannot connect.*nothing.*replayed$"
        ) as failure:
            replay(run, None, None)
        assert "\n" not in str(failure.value)
        assert (open_letters(run), run.lock.holder()) == (1, None)


# ---------- the threshold


class Spoiled:
    """The simulated Polymarket, with events that have no id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.spoils = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp | Response = self.app
        if self.spoils and scope.get("path") == "/gamma/events/keyset":
            answer = JSONResponse({"events": [{"title": "one"}, {"title": "two"}]})
        await answer(scope, receive, send)


def test_more_dead_letters_than_allowed_fail_the_source_and_keep_its_data(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path, template: Settings, world: World
) -> None:
    app = Spoiled(build_app(world))
    with AppServer(app) as server:
        urls = Urls.at(server.port)
        settings = sandbox_settings(
            clickhouse,
            database_prefix,
            tmp_path,
            SimpleNamespace(urls=urls),
            dead_letters_max=1,
        )
        with prepared(settings, template) as run:
            with run.lock.held("run"):
                report = run_cycle(run)
            assert list(report.failures) == ["gamma"]
            assert re.match(
                r"gamma: \d+ records of this cycle could not be used \(missing_field \d+\), more than"
                " DEAD_LETTERS_MAX; ",
                report.failures["gamma"],
            )
            with pytest.raises(LoadFailed, match="DEAD_LETTERS_MAX"):
                report.raise_failures()
            assert rows_of(run, "markets") > 0
            assert rows_of(run, "trades") == len(world.matches)
            [letters] = read_status(run).dead_letters
            assert letters == {"source": "gamma_events", "reason": "missing_field", "records": 2}
            app.spoils = False
            with run.lock.held("run"):
                assert run_cycle(run).failures == {}


# ---------- the verb


def call(settings: Settings, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), "replay", *arguments],
        env=os.environ
        | {
            "CLICKHOUSE_HOST": settings.clickhouse_host,
            "CLICKHOUSE_PORT": str(settings.clickhouse_port),
            "CLICKHOUSE_PASSWORD": settings.clickhouse_password.get_secret_value(),
            "CLICKHOUSE_DATABASE": settings.clickhouse_database,
            "POLYGON_RPC_URL": settings.polygon_rpc_url,
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_the_verb_says_what_became_of_the_letters(reading: Run, world: World) -> None:
    hold_back(reading, world)
    see(reading, "goldsky", [{"id": "0x1"}], reason="missing_field")
    planned = call(reading.settings, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    done = call(reading.settings)
    assert done.stdout.splitlines() == [
        f"landed: goldsky bad_field: {LETTERS}",
        f"landed: polygon bad_field: {LETTERS}",
        "still refused: goldsky missing_field: 1",
    ]
    assert planned.stdout == done.stdout + "nothing was written\n"
    assert_equals_truth(reading, world)
    assert call(reading.settings, "--source", "gamma").returncode == 2


def test_without_dead_letters_it_says_so(settings: Settings) -> None:
    """Before the first run, too: it makes no database."""
    answer = call(settings)
    assert (answer.returncode, answer.stdout) == (0, "There are no dead letters to replay.\n")
