"""What a run left behind: every table compared with the simulated Polymarket's truth, raw fills included, and what the
pipeline itself knows of it: nothing may be wrong that only `verify` finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from clickhouse_connect.driver.client import Client

from chaos.tally import Tally
from pipeline.derive.models import full_refresh_selects
from pipeline.derive.verify import verify
from pipeline.settings import Settings
from pipeline.verbs.status import read_status
from pipeline.warehouse.run import Run, open_run
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


def hidden(settings: Settings) -> list[str]:
    """What the pipeline does not know or does not say of its own tables after its last cycle; one line each."""
    with open_run(settings) as run:
        verdicts = verify(run, full_refresh_selects, None, None)
        status = read_status(run)
        found = [
            f"verify: {each.table} has {each.differences} differences: {'; '.join(each.examples)}"
            for each in verdicts
            if not each.equal
        ]
        if status.unsettled_loads:
            found.append(f"status: {status.unsettled_loads} loads are not settled")
        found += [f"status: {source} is stale" for source in status.stale]
        if status.writer:
            found.append(f"status: {status.writer} still writes")
        return found + unrecorded(run)


def unrecorded(run: Run) -> list[str]:
    """Loads with more fills in raw than the ledger knows of; one line each."""
    raw = run.settings.raw_database
    rows = run.client.query(
        f"""
        select load_id, landed.fills, ledger.loaded_rows
        from (
            select load_id, uniqExact({", ".join(FILL_KEY)}, timestamp) as fills
            from {raw}.order_filled
            group by load_id
        ) as landed
        inner join (
            select load_id, loaded_rows
            from {raw}.loads final
            where table_name = 'order_filled' and not is_rebuild
        ) as ledger using load_id
        where landed.fills > ledger.loaded_rows
        order by load_id
        """
    ).result_rows
    return [
        f"ledger: load {load_id} has {fills} fills in raw, and {known} in the ledger"
        for load_id, fills, known in rows
    ]


def summary(
    seed: int,
    tally: Tally,
    world: World,
    checks: list[Check],
    hidden: Sequence[str] = (),
) -> dict[str, Any]:
    """The run as one JSON object: what happened, what was produced, and per table what was lost and doubled.

    Args:
        hidden: what `hidden` found.
    """
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
        "hidden": list(hidden),
        "passed": all(check.equal for check in checks)
        and not (tally.tracebacks or tally.lies or hidden),
        "tables": tables,
    }
