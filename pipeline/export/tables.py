"""What can be exported: the promised tables, each with its columns, the column of its time, and its key.

All of it is declared beside the models already: a model is promised if its access is public, `event_time` is the column
that says when a row happened (`meta: {time: …}` where that is a date, which dbt cannot sample by), and `unique_key` is its
grain. The types are those that ClickHouse has now.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.derive.dbt import DBT_DIR
from pipeline.errors import NothingLoaded, UsageError
from pipeline.warehouse.run import Run

MODELS_DIR = DBT_DIR / "models"
# dbt_project.yml says that these are not promised.
STAGING = "staging"
BY = ("day", "month")


@dataclass(frozen=True)
class Declared:
    """What the models say of a promised table.

    Attributes:
        name: of the table.
        time: the column that says when a row happened; empty: it has none, and is exported as one file.
        by: day or month: what one file holds unless the user says otherwise.
        key: columns that name a row.
    """

    name: str
    time: str
    by: str
    key: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A promised table as it is in ClickHouse: what is declared, and the type of each column."""

    declared: Declared
    types: dict[str, str]

    @property
    def has_dates(self) -> bool:
        """Whether its time is a date."""
        return self.types.get(self.declared.time) == "Date"


@cache
def promised() -> dict[str, Declared]:
    """Every promised table by name."""
    found = (
        each
        for path in sorted(MODELS_DIR.rglob("*.yml"))
        if path.relative_to(MODELS_DIR).parts[0] != STAGING
        for each in _declared_in(path)
    )
    return {each.name: each for each in found}


def _declared_in(path: Path) -> list[Declared]:
    content = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    models = content.get("models", [])
    return [
        _declared(model)
        for model in models
        if model.get("config", {}).get("access", "public") == "public"
    ]


def _declared(model: dict[str, Any]) -> Declared:
    config = model.get("config", {})
    meta = config.get("meta", {})
    tests = [test for test in model.get("data_tests", []) if "unique_key" in test]
    key = tests[0]["unique_key"]["arguments"]["columns"] if tests else ()
    time = config.get("event_time") or meta.get("time", "")
    return Declared(model["name"], time, meta.get("export_by", "day"), tuple(key))


def find_table(run: Run, name: str) -> Table:
    """The promised table of a name.

    Raises:
        UsageError: there is none; the message has the nearest names.
        NothingLoaded: no run has made it yet.
    """
    if name not in promised():
        raise UsageError(f"there is no table {name}{_meant(name, list(promised()))}")
    rows = run.client.query(
        "select name, type from system.columns where database = {database:String} and table = {name:String}"
        " order by position",
        parameters={"database": run.settings.clickhouse_database, "name": name},
    ).result_rows
    if not rows:
        raise NothingLoaded(
            f"{name} is not in ClickHouse yet: run `python run_pipeline.py` for a first cycle"
        )
    return Table(promised()[name], dict(rows))


def chosen_columns(table: Table, text: str | None) -> tuple[str, ...]:
    """The columns that `--columns` names, in its order; all if it was not given.

    Raises:
        UsageError: it names none, or one that the table lacks, or one twice.
    """
    if text is None:
        return tuple(table.types)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--columns: name one at least, by comma")
    for name in names:
        if name not in table.types:
            raise UsageError(
                f"--columns: {table.declared.name} has no column {name}{_meant(name, list(table.types))}"
            )
        if names.count(name) > 1:
            raise UsageError(f"--columns: {name} is named twice")
    return tuple(names)


def _meant(name: str, known: Sequence[str]) -> str:
    """A question for the nearest of the known names, or all of them if none is near."""
    near = difflib.get_close_matches(name, known, n=3)
    return f"; is {' or '.join(near)} meant?" if near else f": there are {', '.join(sorted(known))}"
