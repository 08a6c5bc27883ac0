"""Marts: equal to the sandbox's truth, empty without data; and conservation tests, which fail when the data are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worlds import (
    all_fills,
    assert_equals_truth,
    land,
    land_gamma,
    rows_of,
    settle_all,
    small_world,
)

from pipeline.models import DBT_DIR, dbt_command
from pipeline.run import Run
from sandbox.truth import Truth

MARTS = sorted(path.stem for path in (DBT_DIR / "models" / "marts").glob("*.sql"))
CONSERVATION = sorted(path.stem for path in (DBT_DIR / "tests").glob("*.sql"))


@pytest.fixture
def loaded(run: Run) -> Run:
    """A run whose databases hold a small world of two days of each generation."""
    world = small_world(days=2)
    land_gamma(run, world)
    land(run, all_fills(world))
    settle_all(run)
    run.world = world
    return run


def failing_tests(run: Run, folder: Path) -> set[str]:
    """Names of the tests of marts and conservation that fail now."""
    results = ["--target-path", str(folder), "--log-path", str(folder)]
    selected = ["--select", "path:models/marts", "test_type:singular"]
    exit_code = dbt_command(run.server, run.settings, ["test", *selected, *results, "--quiet"])
    outcomes = json.loads((folder / "run_results.json").read_text())["results"]
    assert {outcome["unique_id"].split(".")[2] for outcome in outcomes} >= set(CONSERVATION)
    assert {outcome["status"] for outcome in outcomes} <= {"pass", "fail"}
    failing = {
        outcome["unique_id"].split(".")[2] for outcome in outcomes if outcome["status"] == "fail"
    }
    assert exit_code == bool(failing)
    return failing


def test_without_data_marts_are_empty_and_conserve(run: Run, tmp_path: Path) -> None:
    assert {mart: rows_of(run, mart) for mart in MARTS} == dict.fromkeys(MARTS, 0)
    assert failing_tests(run, tmp_path) == set()


def test_marts_equal_the_truth(loaded: Run) -> None:
    assert_equals_truth(loaded, loaded.world)
    trending = Truth(loaded.world).trending_markets
    assert {row["price_24h_ago"] is None for row in trending} == {True, False}
    assert {row["volume_change"] is None for row in trending} == {True, False}
