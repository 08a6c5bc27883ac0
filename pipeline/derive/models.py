"""Builds the dbt models, in this process, and keeps the SQL that settles loads.

dbt owns the models: it creates views, tables and materialized views, tests them and documents them. Its start costs
seconds, a settle milliseconds; so the incremental models (tag `settle_<landing table>`) are compiled once per version
of the project and their inserts kept in ClickHouse, where every later run finds them without importing dbt. Plain
`dbt run` executes the very same text.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clickhouse_connect.driver.client import Client

from pipeline.console import Step, step
from pipeline.derive.settle import Statement
from pipeline.errors import ModelsError, UsageError
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.signals import Stopped
from pipeline.warehouse.client import Server

if TYPE_CHECKING:
    from pipeline.warehouse.run import Run

DBT_DIR = PROJECT_DIR / "dbt_project"
SETTLE_TAG = "settle_"
GAMMA_TABLES = ("markets", "events")
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
LOG_EVERY_S = 10.0
log = logging.getLogger(__name__)


def ensure_models(
    client: Client, target: Server, settings: Settings, fence: int = 0
) -> list[Statement]:
    """Build the models if this version of them is not built yet, and return the settling statements in order.

    Args:
        fence: number of the writer lock that this run holds.

    Raises:
        ModelsError: dbt failed; the message names the first model and why.
    """
    version = project_hash(settings)
    statements = _deployed(client, settings, version)
    if statements:
        return statements
    log.info("models: building (dbt run)")
    with _environment(target, settings, fence):
        _derive_again(client, settings)
        with step("models: building") as shown:
            built = run_dbt(["run"], _Building(shown).on_event)
        statements = _compile_statements(client)
    relations = sorted(
        entry.node.alias
        for entry in built.results
        if entry.node.resource_type == "model" and entry.node.config.materialized != "ephemeral"
    )
    client.insert(
        "model_deployments",
        [
            [
                version,
                _later_than_any(client, settings),
                json.dumps([asdict(statement) for statement in statements]),
                relations,
            ]
        ],
        column_names=["project_hash", "deployed_at", "statements", "relations"],
        database=settings.raw_database,
    )
    return statements


class _Building:
    """Says how far dbt is: on a terminal at every model, elsewhere as a line now and then."""

    def __init__(self, shown: Step) -> None:
        self._shown = shown
        self._said_at = time.monotonic()

    def on_event(self, event: Any) -> None:
        if event.info.name != "LogModelResult":
            return
        detail = f"{event.data.index} of {event.data.total}"
        self._shown.update(detail)
        if not self._shown.visible and time.monotonic() - self._said_at > LOG_EVERY_S:
            log.info("models: %s built", detail)
            self._said_at = time.monotonic()


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
    """Whether a dbt command line changes tables, so that nobody else may write meanwhile."""
    command = next((word for word in arguments if word in READING | WRITING), "")
    return command in WRITING


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

    with _environment(target, settings, fence):
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


def _derive_again(client: Client, settings: Settings) -> None:
    """Derive the stores of markets and events again from raw where their columns are those of an earlier version.

    Readers see the old store until the new one is complete. Stores with the columns of this version go first: as long as
    an old one is left, whoever was interrupted begins again. Stores of fills may be too large to be derived in one
    statement, and are left alone.

    Raises:
        ModelsError: dbt failed; what is old stays until the next run.
    """
    nodes = [node for node in run_dbt(["parse"]).nodes.values() if node.resource_type == "model"]
    for table in GAMMA_TABLES:
        stores = [node for node in nodes if SETTLE_TAG + table in node.tags]
        old = [node for node in stores if _has_other_columns(client, settings, node)]
        new = [node for node in stores if node not in old]
        for part in filter(None, [new, old] if old else []):
            ids = {node.unique_id for node in part}
            log.info("models: deriving %s again", ", ".join(node.name for node in part))
            views = [node.name for node in nodes if _is_view_of(node, ids)]
            selected = [f"+{node.name}" for node in part] + views
            run_dbt(["run", "--full-refresh", "--select", " ".join(selected)])


def _is_view_of(node: Any, stores: set[str]) -> bool:
    """Whether a model is a materialized view that reads or writes one of these stores."""
    is_view = node.config.materialized == "materialized_view"
    return is_view and not stores.isdisjoint(node.depends_on.nodes)


def _has_other_columns(client: Client, settings: Settings, node: Any) -> bool:
    """Whether the table of a model is there, with other columns or types than the model has."""
    present = client.query(
        "select name, type from system.columns where database = {database:String} and table = {table:String}",
        parameters={"database": settings.clickhouse_database, "table": node.name},
    ).result_rows
    wanted = {column.name: column.data_type for column in node.columns.values()}
    return bool(present) and dict(present) != wanted


def full_refresh_selects(run: Run) -> dict[str, str]:
    """The select by which `dbt run --full-refresh` would fill each settled model from those below it, by model, in order.

    Raises:
        ModelsError: the models in ClickHouse are not of this version, or dbt failed.
    """
    if not _deployed(run.client, run.settings, project_hash(run.settings)):
        raise ModelsError(
            "the models are not those of this version; run `python run_pipeline.py` to build them"
        )
    with _environment(run.server, run.settings):
        return {node.name: node.compiled_code for node in _compile("--full-refresh")[0]}


def _compile_statements(client: Client) -> list[Statement]:
    """Compile the incremental models against the tables that exist now."""
    nodes, parents = _compile()
    return [_statement(client, node, _settled_parents(node, nodes, parents)) for node in nodes]


def _compile(*flags: str) -> tuple[list[Any], Mapping[str, list[str]]]:
    """The compiled incremental models, each after those that it reads; and the ids that every node reads."""
    selected = ["--no-inject-ephemeral-ctes", "--select", f"tag:{SETTLE_TAG}*"]
    results = run_dbt(["compile", *selected, *flags]).results
    # Selecting a model selects the tests on it too.
    nodes = [entry.node for entry in results if entry.node.resource_type == "model"]
    if not nodes:
        raise ModelsError("dbt compile: no model has a settle_ tag")
    parents = run_dbt(["parse"]).parent_map
    return _in_dependency_order(nodes, parents), parents


def _settled_parents(node: Any, nodes: list[Any], parents: Mapping[str, list[str]]) -> list[str]:
    """Names of those of `nodes` that a node reads, directly, through a view or through one another."""
    ancestors: set[str] = set()
    waiting = list(parents.get(node.unique_id, []))
    while waiting:
        unique_id = waiting.pop()
        if unique_id not in ancestors:
            ancestors.add(unique_id)
            waiting += parents.get(unique_id, [])
    return sorted(each.name for each in nodes if each.unique_id in ancestors)


def _in_dependency_order(nodes: list[Any], parents: Mapping[str, list[str]]) -> list[Any]:
    """Sort nodes so that each comes after those that it reads, directly or through a view; ties by name.

    `parents` holds the ids that every node of the project reads.
    """
    by_id = {node.unique_id: node for node in nodes}
    visited: dict[str, None] = {}

    def visit(unique_id: str) -> None:
        if unique_id not in visited:
            for parent in parents.get(unique_id, []):
                visit(parent)
            visited[unique_id] = None

    for node in sorted(nodes, key=lambda node: node.name):
        visit(node.unique_id)
    return [by_id[unique_id] for unique_id in visited if unique_id in by_id]


def _statement(client: Client, node: Any, reads: list[str]) -> Statement:
    """The insert that dbt's append strategy makes of a compiled incremental model."""
    tag = next(tag for tag in node.tags if tag.startswith(SETTLE_TAG))
    names = client.query(
        "select name from system.columns where database = {database:String} and table = {table:String} order by position",
        parameters={"database": node.schema, "table": node.alias},
    ).result_columns
    columns = ", ".join(f"`{name}`" for name in names[0])
    query_settings = node.config["query_settings"]
    tail = ", ".join(f"{name} = {value!r}" for name, value in query_settings.items())
    sql = f"insert into {node.relation_name} ({columns})\nselect {columns} from (\n{node.compiled_code}\n)"
    return Statement(node.name, tag.removeprefix(SETTLE_TAG), f"{sql}\nsettings {tail}", reads)


def _deployed(client: Client, settings: Settings, version: str) -> list[Statement]:
    """Statements of this version of the models, or none if it is not built or a table or view of it is gone."""
    rows = client.query(
        f"select statements, relations from {settings.raw_database}.model_deployments final"
        " where project_hash = {hash:String}",
        parameters={"hash": version},
    ).result_rows
    if not rows:
        return []
    statements = [Statement(**entry) for entry in json.loads(rows[0][0])]
    present = client.query(
        "select name from system.tables where database = {database:String}",
        parameters={"database": settings.clickhouse_database},
    ).result_columns
    wanted = {statement.model for statement in statements} | set(rows[0][1])
    missing = wanted - set(present[0] if present else ())
    if missing:
        log.warning("models: %s is gone and is built again", ", ".join(sorted(missing)))
    return [] if missing else statements


def project_hash(settings: Settings) -> str:
    """SHA-256 over everything that shapes the models: the files of the project, and the names they are built under."""
    digest = hashlib.sha256()
    for setting in (settings.clickhouse_database, settings.clickhouse_cluster):
        digest.update(setting.encode() + b"\0")
    kinds = (".sql", ".yml", ".md", ".csv")
    skipped = {"target", "logs", "dbt_packages"}
    for path in sorted(DBT_DIR.rglob("*")):
        relative = path.relative_to(DBT_DIR)
        if path.suffix in kinds and not skipped & set(relative.parts):
            digest.update(str(relative).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _later_than_any(client: Client, settings: Settings) -> Any:
    """The time by ClickHouse's clock, or later than every deployment: the latest of a version counts."""
    return client.query(
        "select fromUnixTimestamp64Micro(greatest(toUnixTimestamp64Micro(now64(6)),"
        f" toUnixTimestamp64Micro(max(deployed_at)) + 1), 'UTC') from {settings.raw_database}.model_deployments"
    ).result_rows[0][0]


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:400] if lines else "no message"


@contextmanager
def _environment(target: Server | None, settings: Settings, fence: int = 0) -> Iterator[None]:
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
