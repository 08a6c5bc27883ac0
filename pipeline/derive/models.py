"""Builds the dbt models, in this process, and keeps the SQL that settles loads.

dbt owns the models: it creates views, tables and materialized views, tests them and documents them. Its start costs
seconds, a settle milliseconds; so the incremental models (tag `settle_<landing table>`) are compiled once per version
of the project and their inserts kept in ClickHouse, where every later run finds them without importing dbt. Plain
`dbt run` executes the very same text.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from clickhouse_connect.driver.client import Client

from ingest.events import Event, span
from pipeline.console import Step, step
from pipeline.derive.dbt import DBT_DIR, dbt_environment, run_dbt
from pipeline.derive.deployments import deployments, kept_statements, record, refuse_later
from pipeline.derive.settle import Statement
from pipeline.derive.stores import SETTLE_TAG, stores_of
from pipeline.derive.tables import drop, present_shapes
from pipeline.derive.upgrade import (
    Upgrade,
    carry_out,
    finish,
    note_rules,
    plan_upgrade,
    refuse_long,
)
from pipeline.errors import ModelsError
from pipeline.settings import Settings
from pipeline.warehouse.run import Run

LOG_EVERY_S = 10.0
log = logging.getLogger(__name__)


def ensure_models(run: Run, *, patient: bool = False, back: bool = False) -> list[Statement]:
    """Build the models if this version of them is not built yet, and return the settling statements in order.

    Args:
        patient: do it however long it takes.
        back: do it although the database was brought to a later version.

    Raises:
        SchemaError: the models of the database are of a later version.
        UpgradeNeeded: it takes long.
        ModelsError: dbt failed; the message names the first model and why.
    """
    version, deployed = project_hash(run.settings), deployments(run)
    if not back:
        refuse_later(version, deployed)
    if deployed and deployed[0].project_hash == version:
        statements = kept_statements(run.client, run.settings, version)
        if statements:
            return statements
    with dbt_environment(run.server, run.settings, run.lock.number):
        return _build(run, version, patient=patient)


def _build(run: Run, version: str, *, patient: bool) -> list[Statement]:
    """Bring the stores to this version, let dbt build everything else, and write it down."""
    with span(Event.MODELS_BUILT):
        upgrade = None
        if present_shapes(run):
            upgrade = _planned(run)
            if not patient:
                refuse_long(upgrade)
            carry_out(run, upgrade)
        log.info("models: building (dbt run)")
        with step("models: building") as shown:
            built = run_dbt(["run"], _Building(shown).on_event)
        models = [entry.node for entry in built.results if entry.node.resource_type == "model"]
        statements = _compile_statements(run.client)
        if upgrade:
            finish(run, upgrade)
        else:  # every table was new, so what dbt has run is what fills it from raw
            note_rules(run, stores_of(models))
        relations = sorted(node.alias for node in models if node.config.materialized != "ephemeral")
        _drop_abandoned(run, relations)
    record(run, version, statements, relations)
    return statements


def upgrade_of(run: Run) -> Upgrade:
    """What this version of the models makes of the stores that are there; nothing is changed.

    Raises:
        ModelsError: dbt failed.
    """
    with dbt_environment(run.server, run.settings):
        return _planned(run)


def _planned(run: Run) -> Upgrade:
    results = run_dbt(["compile", "--full-refresh"]).results
    nodes = [entry.node for entry in results if entry.node.resource_type == "model"]
    return plan_upgrade(run, nodes)


def _drop_abandoned(run: Run, relations: Sequence[str]) -> None:
    """Drop views that an earlier version has built and this one does not; tables are left, and named."""
    rows = run.client.query(
        f"select argMax(relations, deployed_at) from {run.settings.raw_database}.model_deployments"
    ).result_rows
    abandoned = sorted(set(rows[0][0]) - set(relations))
    tables = present_shapes(run) if abandoned else {}
    for name in abandoned:
        if name in tables:
            log.warning(
                "models: table %s is of no model any more; drop it once nobody reads it", name
            )
        else:
            drop(run, name)


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


def full_refresh_selects(run: Run) -> dict[str, str]:
    """The select by which `dbt run --full-refresh` would fill each settled model from those below it, by model, in order.

    Raises:
        ModelsError: the models in ClickHouse are not of this version, or dbt failed.
    """
    deployed = deployments(run)
    if not deployed or deployed[0].project_hash != project_hash(run.settings):
        raise ModelsError(
            "the models are not those of this version; run `python run_pipeline.py` to build them"
        )
    with dbt_environment(run.server, run.settings):
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
