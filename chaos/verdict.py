"""What a run of crashes left behind: every table held against the simulated Polymarket's truth, raw fills included."""

from __future__ import annotations

from collections import Counter
from typing import Any

from clickhouse_connect.driver.client import Client

from chaos.harness import Tally
from sandbox.reconcile import Check, reconcile
from sandbox.truth import Truth
from sandbox.world import World

FILL_KEY = ("tx_hash", "order_hash", "log_index")


def examine(client: Client, database: str, world: World) -> list[Check]:
    """One check per table of `database` and one of the raw fills, which comes first; the world must stand still."""
    truth = Truth(world)
    return [_raw_fills(client, database, truth), *reconcile(client, database, truth)]


def _raw_fills(client: Client, database: str, truth: Truth) -> Check:
    """The landed fills, as every reader sees them: the newest row of a key, those taken back left out."""
    query = f"select {', '.join(FILL_KEY)} from {database}_raw.order_filled final"
    found = Counter(client.query(query).result_rows)
    wanted = {tuple(row[column] for column in FILL_KEY) for row in truth.order_fills}
    lost, unexpected = wanted - found.keys(), found.keys() - wanted
    differences = [f"missing {key}" for key in list(lost)[:3]]
    differences += [f"not expected {key}" for key in list(unexpected)[:3]]
    return Check(
        "raw order_filled",
        len(wanted),
        found.total(),
        differences,
        lost=len(lost),
        doubled=found.total() - len(found),
        unexpected=len(unexpected),
    )


def summary(seed: int, tally: Tally, world: World, checks: list[Check]) -> dict[str, Any]:
    """The run as one JSON object: its kills, what was produced, and per table what was lost and doubled."""
    tables = {
        check.name: {
            "produced": check.expected,
            "count": check.actual,
            "uniq": check.actual - check.doubled,
            "lost": check.lost,
            "doubled": check.doubled,
            "unexpected": check.unexpected,
            "equal": check.equal,
        }
        for check in checks
    }
    return {
        "seed": seed,
        **vars(tally),
        "produced": {"matches": len(world.matches), "fills": checks[0].expected},
        "lost": sum(check.lost for check in checks),
        "doubled": sum(check.doubled for check in checks),
        "equal": all(check.equal for check in checks),
        "passed": all(check.equal for check in checks) and not tally.tracebacks,
        "tables": tables,
    }
