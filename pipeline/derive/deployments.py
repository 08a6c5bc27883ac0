"""Which versions of the models were built in a database, and the statements that settle loads by the latest of them.

Versions are told apart by the hash of the project and counted by MODELS_VERSION, so that older code sees that it is older:
by the count, or because its own hash was built here and then replaced by another. (A migration that it does not know is
refused before that.)
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from pipeline.derive.settle import Statement
from pipeline.errors import SchemaError
from pipeline.settings import Settings
from pipeline.timerange import show
from pipeline.warehouse.run import Run

# Counted up by every release whose models derive something else than those of the release before.
MODELS_VERSION = 1
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deployment:
    """A version of the models that was built in this database."""

    project_hash: str
    models_version: int
    deployed_at: datetime


def refuse_later(version: str, deployed: Sequence[Deployment]) -> None:
    """Make sure that this version of the models is not older than that of the database.

    Args:
        version: hash of this version.
        deployed: what was built, the latest first.

    Raises:
        SchemaError: it is older.
    """
    if not deployed:
        return
    latest, *earlier = deployed
    is_counted_later = latest.models_version > MODELS_VERSION
    is_replaced = latest.models_version == MODELS_VERSION and version in {
        each.project_hash for each in earlier if each.project_hash != latest.project_hash
    }
    if is_counted_later or is_replaced:
        raise SchemaError(
            f"the models of this database are of a later version, built at {show(latest.deployed_at)}: update the"
            " project, restore a backup, or derive by this version with `python run_pipeline.py upgrade --back`"
        )


def deployments(run: Run) -> list[Deployment]:
    """Versions that were built in this database, the latest first."""
    rows = run.client.query(
        "select project_hash, models_version, deployed_at"
        f" from {run.settings.raw_database}.model_deployments final order by deployed_at desc"
    ).result_rows
    return [Deployment(*row[:2], row[2].replace(tzinfo=UTC)) for row in rows]


def kept_statements(client: Client, settings: Settings, version: str) -> list[Statement]:
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


def record(
    run: Run, version: str, statements: Sequence[Statement], relations: Sequence[str]
) -> None:
    """Write down that a version is built, with every table and view of it."""
    run.client.insert(
        "model_deployments",
        [
            [
                version,
                _later_than_any(run.client, run.settings),
                json.dumps([asdict(statement) for statement in statements]),
                list(relations),
                MODELS_VERSION,
            ]
        ],
        column_names=["project_hash", "deployed_at", "statements", "relations", "models_version"],
        database=run.settings.raw_database,
    )


def _later_than_any(client: Client, settings: Settings) -> Any:
    """The time by ClickHouse's clock, or later than every deployment: the latest of a version counts."""
    return client.query(
        "select fromUnixTimestamp64Micro(greatest(toUnixTimestamp64Micro(now64(6)),"
        f" toUnixTimestamp64Micro(max(deployed_at)) + 1), 'UTC') from {settings.raw_database}.model_deployments"
    ).result_rows[0][0]
