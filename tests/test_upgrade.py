"""Upgrades: a database that an earlier version wrote is brought to this one, can be read meanwhile, and survives kills."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from old_worlds import ARCHIVES, unpack
from test_interruptions import call, environment
from test_rebuild import contents
from worlds import (
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

from embedded_clickhouse import Endpoint, running
from pipeline.derive import beside, deployments, models, owed, upgrade
from pipeline.derive.deployments import Deployment, refuse_later
from pipeline.derive.models import full_refresh_selects, upgrade_of
from pipeline.derive.prepare import prepare
from pipeline.derive.rebuild import rebuild
from pipeline.derive.stores import Change, Shape, change_of, stores_of, without_noise
from pipeline.derive.tables import SAMPLE, definition
from pipeline.derive.verify import verify
from pipeline.errors import NotSettled, SchemaError, UpgradeNeeded
from pipeline.jobs.cycle import run_cycle
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.verbs.status import read_status
from pipeline.warehouse.client import connect
from pipeline.warehouse.lock import WriterLock
from pipeline.warehouse.run import Run, open_run
from sandbox.server import SandboxServer

AT = datetime(2026, 6, 1, tzinfo=UTC)
SHAPE = Shape({"id": "String", "usd": "Decimal(38, 6)"}, "ReplacingMergeTree(version)", ("id",))


# ---------- what is decided


@pytest.mark.parametrize(
    ("wanted", "rule", "change"),
    [
        (SHAPE, "a", Change.UNCHANGED),
        (SHAPE, "b", Change.RULE),
        (Shape({**SHAPE.columns, "fee": "Float64"}, SHAPE.engine, SHAPE.keys), "b", Change.ADDED),
        (Shape({"id": "String"}, SHAPE.engine, SHAPE.keys), "a", Change.RESHAPED),
        (Shape({"id": "UInt64", "usd": "Decimal(38, 6)"}, SHAPE.engine, SHAPE.keys), "b",
         Change.RESHAPED),
        (Shape(SHAPE.columns, "MergeTree", SHAPE.keys), "a", Change.RESHAPED),
        (Shape(SHAPE.columns, SHAPE.engine, ("usd",)), "a", Change.RESHAPED),
    ],
)  # fmt: skip
def test_what_became_of_a_store(wanted: Shape, rule: str, change: Change) -> None:
    assert change_of(SHAPE, wanted, "a", rule) is change
    assert change_of(None, wanted, None, rule) is Change.NEW


def test_a_store_of_before_rules_were_kept_counts_as_changed() -> None:
    assert change_of(SHAPE, SHAPE, None, "a") is Change.RULE


def test_comments_and_white_space_are_no_rule() -> None:
    sql = "select 'a -- b  /* c */' as x, -- why\n  1 /* one */ as y\nfrom t"
    assert without_noise(sql) == "select 'a -- b  /* c */' as x, 1 as y from t"


def model(name: str, sql: str, reads: tuple[str, ...] = (), tag: str = "") -> SimpleNamespace:
    return SimpleNamespace(
        unique_id=name, name=name, alias=name, compiled_code=sql, schema="polymarket",
        tags=[tag] if tag else [], config={"query_settings": {"join_use_nulls": 0}},
        depends_on=SimpleNamespace(nodes=[*reads, "source.raw"]),
    )  # fmt: skip


def project(view: str = "select 1", day: str = "select 3") -> list[SimpleNamespace]:
    return [
        model("a_days", day, ("hours", "view"), "settle_fills"),
        model("hours", "select 2", ("view",), "settle_fills"),
        model("view", view),
        model("other", "select 4", (), "settle_markets"),
    ]


def test_a_rule_reaches_every_store_that_reads_it_and_no_other() -> None:
    before = {store.name: store for store in stores_of(project())}
    assert list(before).index("hours") < list(before).index("a_days")
    assert before["a_days"].views == ("view",)

    def changed(**texts: str) -> set[str]:
        return {
            store.name
            for store in stores_of(project(**texts))
            if store.rule != before[store.name].rule
        }

    assert changed(view="select 1 -- the same\n") == set()
    assert changed(view="select 1.5") == {"a_days", "hours"}
    assert changed(day="select 3.5") == {"a_days"}


@pytest.mark.parametrize(
    ("deployed", "is_refused"),
    [
        ([], False),
        ([("mine", 1)], False),
        ([("theirs", 1)], False),  # never built here, so newer
        ([("theirs", 0), ("mine", 0)], False),
        ([("theirs", 1), ("mine", 1)], True),
        ([("theirs", 2)], True),
        ([("mine", 1), ("theirs", 1)], False),
    ],
)
def test_older_code_is_told_from_newer(
    deployed: list[tuple[str, int]], is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployments, "MODELS_VERSION", 1)
    found = [Deployment(name, count, AT) for name, count in deployed]
    if not is_refused:
        refuse_later("mine", found)
        return
    with pytest.raises(SchemaError, match=r"later version, built at 2026-06-01: .* --back`$") as no:
        refuse_later("mine", found)
    assert "\n" not in str(no.value)


# ---------- a database of an earlier release


@contextmanager
def reading(run: Run, *queries: str) -> Iterator[list[str]]:
    """Ask these queries again and again beside the block; the list gets what went wrong, or fell back."""
    wrong: list[str] = []
    is_over, rounds = threading.Event(), [0]
    client = connect(run.server)
    first = [client.query(query).result_rows[0][0] for query in queries]

    def ask() -> None:
        while not is_over.is_set():
            for query, least in zip(queries, first, strict=True):
                try:
                    found = client.query(query).result_rows[0][0]
                except Exception as error:
                    wrong.append(f"{query}: {error}"[:300])
                else:
                    wrong.extend([f"{query}: {found} < {least}"] if found < least else [])
            rounds[0] += 1
            is_over.wait(0.05)

    reader = threading.Thread(target=ask)
    reader.start()
    try:
        yield wrong
    finally:
        is_over.set()
        reader.join()
        assert rounds[0] > 10


class Killed(BaseException):
    """As if the process were gone: nothing catches it."""


@contextmanager
def killed_after(module: Any, name: str, calls: int) -> Iterator[None]:
    """End the block once a function of a module has done its work so many times."""
    function, seen = getattr(module, name), [0]

    def dying(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        seen[0] += 1
        if seen[0] == calls:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(module, name, dying)
        yield


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_a_database_of_an_earlier_release_is_brought_to_this_one(
    archive: Path, clickhouse: Endpoint, database_prefix: str, tmp_path: Path
) -> None:
    """Killed after an exchange, before the new version is written down, and within a slice; then a cycle."""
    with SandboxServer(small_world(matches=700)) as upstream:
        settings = sandbox_settings(
            clickhouse, database_prefix, tmp_path, upstream, settle_max_rows=700
        )
        with open_run(settings) as run:
            unpack(run.client, archive, database_prefix)
            with run.lock.held("run") as lock:
                bring_up_to_date(run, lock)
            assert (owed.owed(run), run.ledger.unsettled()) == ([], [])
            plan = upgrade_of(run)
            assert set(plan.changes.values()) == {Change.UNCHANGED}
            selects = {store.name: store.select for store in plan.stores}
            assert all(each.equal for each in verify(run, lambda run: selects, None, None))


def bring_up_to_date(run: Run, lock: WriterLock) -> None:
    """Prepare and run cycles, with kills, while others read."""
    database, fills = run.settings.clickhouse_database, rows_of(run, "order_fills")
    tables = ("order_fills", "trades", "ohlcv_1m", "volume_daily", "markets", "events")
    counts = [f"select count() from {database}.{table}" for table in tables]
    with reading(run, *counts, f"select sum(usd) from {database}.trades") as wrong:
        for module, name, calls in ((beside, "_put_in_place", 2), (upgrade, "owe_all", 1)):
            with killed_after(module, name, calls):
                prepare(run)
        prepare(run)
        with killed_after(owed, "settle", 2):
            owed.derive_owed(run)
        left = sum(each.loaded_rows for each in owed.owed(run))
        assert 0 < left < fills == rows_of(run, "order_fills")
        for _ in range(9):
            if run_cycle(run).caught_up:
                break
    assert wrong == []
    assert rows_of(run, "order_fills") >= fills


# ---------- a database of the version before


@pytest.fixture
def loaded(run: Run) -> Run:
    """A run whose world is landed and settled, in many slices."""
    world = small_world(matches=300)
    land_gamma(run, world)
    land(run, all_fills(world))
    settle_all(run)
    run.settings = run.settings.model_copy(update={"settle_max_rows": 300})
    run.world = world
    return run


def test_a_new_store_is_defined_as_dbt_defines_it(run: Run) -> None:
    """And a database of this version needs no upgrade."""
    database, plan = run.settings.clickhouse_database, upgrade_of(run)
    assert set(plan.changes.values()) == {Change.UNCHANGED}

    def described(name: str) -> tuple[Any, ...]:
        columns = run.client.query(
            "select name, type, compression_codec from system.columns"
            " where database = {d:String} and table = {t:String} order by name",
            parameters={"d": database, "t": name},
        ).result_rows
        indexes = run.client.query(
            "select name, type_full, expr, granularity from system.data_skipping_indices"
            " where database = {d:String} and table = {t:String} order by name",
            parameters={"d": database, "t": name},
        ).result_rows
        engine = run.client.command(
            f"select engine_full from system.tables where database = '{database}' and name = '{name}'"
        )
        return columns, indexes, engine

    for store in plan.stores:
        sample = SAMPLE.format(store.name)
        run.client.command(definition(run, store, sample))
        assert described(sample) == described(store.name)


def as_before(run: Run) -> None:
    """Make of three stores what the version before would have had."""
    models, raw = run.settings.clickhouse_database, run.settings.raw_database
    run.client.command(f"alter table {models}.trades_store drop column maker_fee_usd")
    run.client.command(f"truncate table {models}.ohlcv_1m_store")  # by another rule it had no rows
    run.client.command(
        f"create table {models}.by_time engine = ReplacingMergeTree(version, is_deleted)"
        f" order by (bucket_at, token_id) as select * from {models}.ohlcv_1d_store"
    )
    run.client.command(f"exchange tables {models}.by_time and {models}.ohlcv_1d_store")
    run.client.command(f"drop table {models}.by_time")
    run.client.command(
        f"insert into {raw}.deployed_stores select name, 'another', now64(6) from {raw}.deployed_stores"
        " where name in ('trades_store', 'ohlcv_1m_store')"
    )
    run.client.command(f"create view {models}.abandoned as select 1 as x")
    run.client.command(
        f"insert into {raw}.model_deployments (project_hash, deployed_at, relations)"
        " values ('before', now64(6), ['abandoned'])"
    )


def test_columns_rules_and_keys_are_brought_to_this_version(
    loaded: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(loaded)
    as_before(loaded)
    monkeypatch.setattr(models, "project_hash", lambda settings: "after")
    with monkeypatch.context() as patched:
        patched.setattr(upgrade, "LONG_ROWS", 10)
        with pytest.raises(UpgradeNeeded, match=r"^this version fills ohlcv_1d_store again") as no:
            prepare(loaded)
        assert "upgrade`; until then" in str(no.value) and "\n" not in str(no.value)
    assert "maker_fee_usd" not in upgrade.present_shapes(loaded)["trades_store"].columns

    caplog.set_level("INFO")
    prepare(loaded)
    assert sorted(line for line in caplog.messages if "_store: " in line) == [
        "models: ohlcv_1d_store: key, engine or types changed",
        "models: ohlcv_1m_store: rule changed",
        "models: trades_store: columns added",
    ]
    assert contents(loaded)["ohlcv_1d"] == before["ohlcv_1d"]
    assert not loaded.client.command(
        f"exists table {loaded.settings.clickhouse_database}.abandoned"
    )
    waiting = read_status(loaded).to_derive_again
    assert waiting == len(all_fills(loaded.world)) == before["order_fills"][0]
    with pytest.raises(NotSettled, match="fills stand as an earlier version derived them"):
        verify(loaded, full_refresh_selects, None, None)
    assert owed.derive_owed(loaded, 0)  # one slice, as in a cycle
    assert 0 < read_status(loaded).to_derive_again < waiting
    while owed.derive_owed(loaded):
        pass
    assert contents(loaded) == before
    assert_equals_truth(loaded, loaded.world)


def test_a_fill_that_was_cut_off_goes_on_where_it_was(loaded: Run) -> None:
    before = contents(loaded)
    stores = {store.name: store for store in upgrade_of(loaded).stores}
    keep, parts = beside._note, []

    def note(run: Run, target: str, part: str) -> None:
        parts.append(part)
        keep(run, target, part)

    for name in ("ohlcv_1h_store", "ohlcv_1d_store", "market_latest_price_store", "markets_store"):
        parts.clear()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(beside, "_note", note)
            with killed_after(beside, "_note", 1):
                beside.fill_beside(loaded, stores[name])
            loaded.client.command(  # readers see this until the new one is whole
                f"truncate table {loaded.settings.clickhouse_database}.{name}"
            )
            beside.fill_beside(loaded, stores[name])
        assert len(parts) == len(set(parts)) >= (2 if "ohlcv" in name else 1)
        assert contents(loaded) == before
    assert [name for name in upgrade.present_shapes(loaded) if "__" in name] == []


def test_a_rebuild_pays_what_is_owed(loaded: Run) -> None:
    slices = owed.owe_all(loaded)
    last = slices[-1].from_at
    rebuild(loaded, last, datetime.now(UTC))
    assert [each.from_at for each in owed.owed(loaded)] == [
        each.from_at for each in reversed(slices[:-1])
    ]
    answer = call(loaded.settings, "upgrade")
    assert answer.returncode == 0, answer.stderr
    assert "fills derived again" in answer.stderr
    assert owed.owed(loaded) == []


def test_older_code_on_a_newer_database_refuses_in_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_build", lambda run, version, patient: [version, patient])
    monkeypatch.setattr(deployments, "MODELS_VERSION", 0)
    raw = run.settings.raw_database
    run.client.command(
        f"insert into {raw}.model_deployments (project_hash, deployed_at, models_version)"
        " values ('newer', now64(6) + 1, 7)"
    )
    with pytest.raises(SchemaError, match="models of this database are of a later version") as no:
        prepare(run)
    assert "\n" not in str(no.value)
    prepare(run, patient=True, back=True)
    assert run.statements == [models.project_hash(run.settings), True]


# ---------- moving


def commands_of(heading: str) -> str:
    """The block of bash in a chapter of docs/operations.md."""
    chapter = (PROJECT_DIR / "docs/operations.md").read_text().split(f"## {heading}\n")[1]
    return chapter.split("```bash\n")[1].split("```")[0]


def test_the_documented_commands_move_what_is_landed_to_another_clickhouse(
    loaded: Run, template: Settings, tmp_path: Path
) -> None:
    before, prefix = contents(loaded), loaded.settings.clickhouse_database
    for table in ("_dlt_version", "_dlt_loads", "_dlt_pipeline_state"):  # as dlt would make them
        loaded.client.command(
            f"create table {prefix}_raw.{table} engine = ReplacingMergeTree order by a as select 1 as a"
        )
    with running(tmp_path / "other", 0) as other:
        settings = make_settings(other, prefix, tmp_path)
        with prepared(settings, template) as moved:
            commands = commands_of("Moving to a server or to ClickHouse Cloud")
            for old, new in (
                ("polymarket_raw", f"{prefix}_raw"),
                ("https://abc.clickhouse.cloud:8443", f"http://{other.host}:{other.port}"),
                ("python run", f"{sys.executable} run"),
            ):
                assert old in commands
                commands = commands.replace(old, new)
            answer = subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", commands],
                env=environment(loaded.settings) | {"PASSWORD": other.password or ""},
                cwd=PROJECT_DIR,
                capture_output=True,
                text=True,
            )
            assert (answer.returncode, answer.stderr) == (0, "")
            assert moved.client.command(f"select count() from {prefix}_raw._dlt_loads") == 1
            rebuild(moved, None, datetime.now(UTC))
            assert contents(moved) == before
            assert_equals_truth(moved, loaded.world)
