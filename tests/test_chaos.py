"""Crash tests, short: every seam is where the code says, a few kills lose and double nothing, and a loss would be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from worlds import all_fills, land, land_gamma, sandbox_settings, small_world

from chaos.harness import Tally
from chaos.schedule import schedule
from chaos.seams import SEAMS, arm, owner
from chaos.verdict import examine, summary
from embedded_clickhouse import Endpoint
from pipeline.loop import run_once
from pipeline.run import Run
from pipeline.settings import PROJECT_DIR
from sandbox.server import SandboxServer


def test_a_schedule_follows_from_its_seed() -> None:
    kinds = {"pipeline": 60, "database": 30, "both": 10}
    kills = schedule(3, **kinds)
    assert kills == schedule(3, **kinds) != schedule(4, **kinds)
    assert Counter(kill.victim for kill in kills) == kinds
    at_seams = [kill for kill in kills if kill.seam]
    assert {kill.seam for kill in at_seams} == set(SEAMS)
    assert all(1 <= kill.nth <= SEAMS[kill.seam].calls for kill in at_seams)
    assert any(kill.loses_folder for kill in kills)


def test_every_seam_is_passed_by_a_first_cycle(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = set()
    for name, seam in SEAMS.items():
        holder, attribute = owner(seam)
        monkeypatch.setattr(holder, attribute, getattr(holder, attribute))  # put back by undo
        arm(seam, 1, 0, lambda name=name: passed.add(name))
    with SandboxServer(small_world(matches=50)) as upstream:
        run_once(sandbox_settings(clickhouse, database_prefix, tmp_path, upstream))
    monkeypatch.undo()
    assert passed == set(SEAMS)


def test_every_seam_is_explained() -> None:
    text = (PROJECT_DIR / "docs" / "reliability.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row in SEAMS] == list(SEAMS)


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


def test_a_few_kills_lose_and_double_nothing() -> None:
    counts = ["--pipeline-kills", "6", "--database-kills", "2", "--both-kills", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--seed", "2", "--matches", "300", *counts],
        cwd=PROJECT_DIR,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first == "seed 2"
    result = json.loads(last)
    assert result["kills"] == {"pipeline": 6, "database": 2, "both": 1}
    assert result["missed"] == {}
    assert (result["lost"], result["doubled"], result["passed"]) == (0, 0, True)
    assert result["tables"]["order_fills"]["uniq"] == result["produced"]["fills"] > 300
