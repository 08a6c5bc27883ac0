"""Crash tests, short: every seam is where the code says, a few kills lose and double nothing, and a loss would be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

from dlt.extract.extract import Extract
from worlds import (
    COLUMNS,
    PATIENCE_S,
    all_fills,
    land,
    land_gamma,
    landing_row,
    sandbox_settings,
    small_world,
)

from chaos.cycles import cycles_of, has_begun, runs_in
from chaos.schedule import (
    FAULT_KINDS,
    HOME,
    BadNetwork,
    Kill,
    Pause,
    WrongClock,
    schedule,
)
from chaos.seams import MEETINGS, MORE_PLACES, PAUSES, PLACES, SEAMS, SECOND_PAUSES, arm
from chaos.tally import Tally
from chaos.verdict import examine, summary, unrecorded
from embedded_clickhouse import Endpoint
from ingest.events import Event, span
from pipeline.jobs.backfill import backfill, parse_request
from pipeline.jobs.loop import run_once
from pipeline.settings import PROJECT_DIR
from pipeline.warehouse.run import Run, open_run
from sandbox.reconcile import Check
from sandbox.server import SandboxServer

KINDS = (Kill, Pause, WrongClock, BadNetwork)


def test_a_schedule_follows_from_its_seed() -> None:
    numbers = {"pipeline": 60, "database": 30, "both": 10, "pauses": 70, "clocks": 40, "faults": 90}
    events = schedule(3, **numbers)
    assert events == schedule(3, **numbers) != schedule(4, **numbers)
    kinds = {kind: [each for each in events if isinstance(each, kind)] for kind in KINDS}
    assert Counter(kill.victim for kill in kinds[Kill]) == dict(list(numbers.items())[:3])
    assert [len(kinds[Pause]), len(kinds[WrongClock])] == [70, 40]
    assert sum(len(network.faults) for network in kinds[BadNetwork]) == 90
    # They take turns, and what happens of one kind does not depend on the others.
    assert len({type(event) for event in events[:20]}) > 2
    assert Counter(schedule(3, pauses=70)) == Counter(kinds[Pause])


def test_kills_come_at_every_seam() -> None:
    kills = schedule(3, pipeline=60, database=30, both=10)
    at_seams = [kill for kill in kills if kill.seam]
    assert {kill.seam for kill in at_seams} == set(SEAMS)
    assert all(1 <= kill.nth <= SEAMS[kill.seam].calls for kill in at_seams)
    assert any(kill.loses_folder for kill in kills)


def test_pauses_come_at_every_place() -> None:
    pauses = schedule(3, pauses=60)
    assert {pause.seam for pause in pauses} == {"", *PAUSES}
    assert {pause.meeting for pause in pauses} == {"", *MEETINGS}
    assert {pause.again for pause in pauses} == {"", *SECOND_PAUSES}
    assert {pause.verb for pause in pauses} == {"loop", "once", "backfill"}
    assert {pause.folder == pause.successors_folder for pause in pauses} == {True, False}
    assert {pause.folder == HOME for pause in pauses} == {True, False}
    assert any(pause.alone for pause in pauses)
    assert any(pause.reorg and pause.seam == "before inserting fills" for pause in pauses)
    assert not any(pause.alone and pause.meeting for pause in pauses)


def test_clocks_are_wrong_in_every_way() -> None:
    clocks = schedule(3, clocks=60)
    assert max(clock.ahead_s for clock in clocks) > 3600
    assert min(clock.ahead_s for clock in clocks) < -3600
    jumps = [clock for clock in clocks if clock.jump_s]
    assert any(clock.ahead_s + clock.jump_s == 0 for clock in jumps)
    assert any(clock.ahead_s == 0 for clock in jumps)
    assert {clock.jump_s > 0 for clock in jumps} == {True, False}
    assert len(jumps) < len(clocks)


def test_the_proxy_does_everything_to_inserts_and_to_other_requests() -> None:
    faults = [fault for network in schedule(3, faults=200) for fault in network.faults]
    on_inserts = Counter(fault.kind for fault in faults if fault.inserts_only)
    assert set(on_inserts) == {*FAULT_KINDS} - {"cut in the body"}
    assert {fault.kind for fault in faults if not fault.inserts_only} == {*FAULT_KINDS}
    assert {fault.twice for fault in faults} == {True, False}


def test_every_seam_is_passed(clickhouse: Endpoint, database_prefix: str, tmp_path: Path) -> None:
    passed = set()
    with ExitStack() as armed:
        for name, seam in PLACES.items():
            armed.enter_context(arm(seam, 1, 0, lambda name=name: passed.add(name)))
        with SandboxServer(small_world(matches=50)) as upstream:
            settings = sandbox_settings(clickhouse, database_prefix, tmp_path, upstream)
            run_once(settings)
            in_first_cycle = set(passed)
            with open_run(settings) as run:
                backfill(run, parse_request("2026-06-01T06:00", None, None, again=False))
    assert in_first_cycle >= set(SEAMS)
    assert passed == set(PLACES)


def test_what_is_patched_in_dlt_is_put_back() -> None:
    before = Extract.commit_packages
    with arm(SEAMS["package committed, state not saved"], 1, 0, lambda: None):
        assert Extract.commit_packages is not before
    assert Extract.commit_packages is before


def test_a_time_may_not_count() -> None:
    struck: list[bool] = []
    counting: list[bool] = []
    seam = SEAMS["between settle statements"]
    with arm(seam, 2, 0, lambda: struck.append(True), counts=lambda: counting[-1]):
        for counts, expected in ((False, 0), (True, 0), (False, 0), (True, 1), (True, 1)):
            counting.append(counts)
            with span(Event.STATEMENT_EXECUTED, model="trades"):
                pass
            assert len(struck) == expected


def test_a_seam_may_want_a_fact_and_a_span_that_ended_well() -> None:
    struck: list[bool] = []
    fills, statement = MORE_PLACES["before inserting fills"], SEAMS["between settle statements"]
    with (
        arm(fills, 1, 0, lambda: struck.append(True)),
        arm(statement, 1, 0, lambda: struck.append(True)),
    ):
        with (
            span(Event.FILE_INSERTED, table="markets"),
            suppress(ZeroDivisionError),
            span(Event.STATEMENT_EXECUTED, model="trades"),
        ):
            raise ZeroDivisionError
        assert not struck
        with span(Event.FILE_INSERTED, table="order_filled"):
            assert struck


def test_a_cycle_is_a_run_of_each_source_that_went_well() -> None:
    log = "chaos: polygon begins\nchaos: polygon done\nlock: lost\nchaos: gamma begins\n"
    assert has_begun(log) and not has_begun("2026-06-01 chaos: begins\n")
    assert cycles_of(runs_in(log), ["polygon", "gamma"]) == 0
    log += "chaos: polygon done\nchaos: gamma done\n"
    assert runs_in(log) == Counter(polygon=2, gamma=1)
    assert cycles_of(runs_in(log), ["polygon", "gamma"]) == 1


def test_every_seam_is_explained() -> None:
    text = (PROJECT_DIR / "docs" / "reliability.md").read_text()
    argument, crash_tests = text.split("## The crash tests")
    assert [row for row in _first_cells(argument) if row in SEAMS] == list(SEAMS)
    places = [place for cell in _first_cells(crash_tests) for place in cell.split("; ")]
    assert [place for place in places if place in PLACES] == list(PAUSES)


def _first_cells(text: str) -> list[str]:
    """The first cell of each row of a text's tables."""
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]


def test_a_loss_would_be_seen(run: Run) -> None:
    world = small_world(matches=60)
    land_gamma(run, world)
    fills = all_fills(world)
    land(run, fills[1:])
    checks = examine(run.client, run.settings.clickhouse_database, world)
    raw, derived = checks[0], {check.name: check for check in checks}["order_fills"]
    assert (raw.lost, raw.doubled, raw.unexpected) == (1, 0, 0)
    assert derived.lost == 1
    tally = Tally(kills=Counter(pipeline=2))
    result = json.loads(json.dumps(summary(1, tally, world, checks)))
    assert result["kills"] == {"pipeline": 2}
    assert not result["passed"]
    assert result["lost"] >= 2
    assert result["tables"]["raw order_filled"]["produced"] == len(fills)


def test_rows_that_the_ledger_does_not_know_are_seen(run: Run) -> None:
    fills = all_fills(small_world(matches=30))
    load_id = land(run, fills[2:])
    assert unrecorded(run) == []
    rows = [landing_row(fill, load_id) for fill in fills[:2]]
    raw = run.settings.raw_database
    run.client.insert("order_filled", rows, column_names=COLUMNS, database=raw)
    known = len(fills) - 2
    assert unrecorded(run) == [
        f"ledger: load {load_id} has {len(fills)} fills in raw, and {known} in the ledger"
    ]
    equal = [Check("raw order_filled", len(fills), len(fills))]
    assert summary(1, Tally(), small_world(matches=30), equal)["passed"]
    assert not summary(1, Tally(), small_world(matches=30), equal, unrecorded(run))["passed"]
    assert not summary(1, Tally(lies=["fresh"]), small_world(matches=30), equal)["passed"]


def test_a_little_of_everything_loses_and_doubles_nothing() -> None:
    """One of each; `make chaos` has hundreds."""
    counts = ["--pipeline-kills", "1", "--database-kills", "0", "--both-kills", "1"]
    counts += ["--pauses", "1", "--clock", "1", "--proxy", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--seed", "2", "--matches", "300", *counts],
        cwd=PROJECT_DIR,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first == "seed 2"
    result = json.loads(last)
    assert result["kills"] == {"pipeline": 1, "both": 1}
    assert sum(result["pauses"].values()) == sum(result["paused_ended"].values()) == 1
    assert sum(result["faults"].values()) == 4
    assert result["clocks"]
    assert result["missed"] == {}
    assert (result["lost"], result["doubled"], result["passed"]) == (0, 0, True)
    assert result["tables"]["order_fills"]["uniq"] == result["produced"]["fills"] > 300
