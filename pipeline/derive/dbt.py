"""Runs dbt in this process, against the ClickHouse of a run.

dbt costs seconds to import and to start, so it is imported where it is called, and called only when the project changed or
the user asks. What is built and when is left to `models.py` and `deploy.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from pipeline.errors import ModelsError, UsageError
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.signals import Stopped
from pipeline.warehouse.client import Server

DBT_DIR = PROJECT_DIR / "dbt_project"
# The target of `profiles.yml` that the pipeline builds; every other one is a developer's.
PRODUCTION = "default"
# By this variable the project knows that dbt runs under the pipeline's lock; see macros/settle.sql.
FENCE_VARIABLE = "POLYMARKET_ELT_FENCE"
# dbt's commands, by whether they change tables of the models.
WRITING = frozenset({"build", "clone", "retry", "run", "run-operation", "seed", "snapshot"})
READING = frozenset(
    {
        "clean",
        "compile",
        "debug",
        "deps",
        "docs",
        "init",
        "list",
        "ls",
        "parse",
        "show",
        "source",
        "test",
    }
)


def run_dbt(arguments: list[str], on_event: Callable[[Any], None] | None = None) -> Any:
    """Run one dbt command in this process and return dbt's result.

    Args:
        on_event: called with each of dbt's events.

    Raises:
        ModelsError: it failed; the message names the first node that did and why.
    """
    from dbt.cli.main import dbtRunner  # seconds to import, so only where it is needed

    outcome = dbtRunner(callbacks=[on_event] if on_event else []).invoke(
        [
            *arguments,
            "--project-dir",
            str(DBT_DIR),
            "--profiles-dir",
            str(PROJECT_DIR),
            "--target",
            PRODUCTION,
            "--log-level",
            "none",
            "--log-level-file",
            "none",
        ]
    )
    _pass_on_signal(outcome)
    if outcome.success:
        return outcome.result
    if outcome.exception is not None:
        raise ModelsError(f"dbt {arguments[0]}: {_one_line(str(outcome.exception))}")
    failed = [result for result in outcome.result.results if result.status in ("error", "fail")]
    first = failed[0]
    raise ModelsError(
        f"dbt {arguments[0]}: {first.node.name}: {_one_line(first.message or first.status)}"
    )


def writes(arguments: Sequence[str]) -> bool:
    """Whether a dbt command line changes tables of production, so that nobody else may write meanwhile.

    A developer's schema has no writer but its developer.
    """
    command = next((word for word in arguments if word in READING | WRITING), "")
    return command in WRITING and _target(arguments) == PRODUCTION


def _target(arguments: Sequence[str]) -> str:
    """The target of `profiles.yml` that a dbt command line names, by the option or dbt's own variable."""
    for option, value in pairwise([*arguments, ""]):
        if option in ("--target", "-t"):
            return value
        if option.startswith("--target="):
            return option.removeprefix("--target=")
    return os.environ.get("DBT_TARGET") or PRODUCTION


def asks_only(arguments: Sequence[str]) -> bool:
    """Whether a dbt command line asks for help or the version, which takes no ClickHouse."""
    return not {"--help", "-h", "--version", "-V", "-v"}.isdisjoint(arguments)


def dbt_command(
    target: Server | None, settings: Settings, arguments: list[str], fence: int = 0
) -> int:
    """Run one dbt command of the user's against the ClickHouse in use, its output as dbt prints it; return its exit code.

    Args:
        target: None where `asks_only`.
        fence: number of the writer lock that this run holds; 0: it holds none.

    Raises:
        UsageError: dbt knows no such command or option.
    """
    from dbt.cli.exceptions import DbtUsageException
    from dbt.cli.main import dbtRunner

    with dbt_environment(target, settings, fence):
        outcome = dbtRunner().invoke(arguments)
    _pass_on_signal(outcome)
    if isinstance(outcome.exception, DbtUsageException):  # dbt prints every other exception
        raise UsageError(f"dbt: {outcome.exception} Try `dbt --help`, or --help after a command.")
    if outcome.success:
        return 0
    return 2 if outcome.exception is not None else 1


def _pass_on_signal(outcome: Any) -> None:
    """dbt turns every exception into an outcome, that of a signal included."""
    if isinstance(outcome.exception, Stopped):
        raise outcome.exception


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:400] if lines else "no message"


@contextmanager
def dbt_environment(target: Server | None, settings: Settings, fence: int = 0) -> Iterator[None]:
    """Give dbt the server and names of this run by the variables that `profiles.yml` reads, its folders, and its fence if
    it has one."""
    wanted = {
        **(target.environment() if target else {}),
        "DBT_PROJECT_DIR": str(DBT_DIR),
        "DBT_PROFILES_DIR": str(PROJECT_DIR),
        "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        "CLICKHOUSE_CLUSTER": settings.clickhouse_cluster,
        FENCE_VARIABLE: str(fence or ""),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
