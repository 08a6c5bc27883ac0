"""Makes dlt sources and the destination from the settings, and answers what they ask ClickHouse while they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from dlt.extract import DltSource

from ingest.http import HttpClient, RateLimit, RetryPolicy
from ingest.land.destination import NO_FENCE, ClickHouseHttp, Fence, clickhouse_destination
from ingest.progress import Progress
from ingest.sources.gamma import reader as gamma
from ingest.sources.gamma.entities import Version
from ingest.sources.goldsky import reader as goldsky
from ingest.sources.polygon import reader as polygon
from ingest.sources.polygon.chain import Endpoint, Endpoints
from ingest.sources.polygon.rpc import Node
from ingest.sources.sqd import portal as sqd
from ingest.tables import TABLES
from pipeline.settings import Settings
from pipeline.warehouse.run import Run

CONNECT_TIMEOUT_S = 10.0
# Of one endpoint, where another one stands behind it.
ATTEMPTS_BEFORE_THE_NEXT = 3
RATE_LIMITS = {"gamma": gamma.LIMITS, "goldsky": goldsky.LIMITS}


def make_source(
    name: str, run: Run, progress: Progress, recheck: Sequence[tuple[int, int]] = ()
) -> DltSource:
    """The source of a cycle: `gamma`, `goldsky` or `polygon`.

    Args:
        recheck: ranges of blocks that polygon reads again in full before it reads on, both ends inclusive.
    """
    settings = run.settings
    if name == "gamma":
        return gamma.gamma(
            settings.polymarket_gamma_url,
            progress=progress,
            client=http_client(run, name),
            known_versions=KnownVersions(run),
            known_open=KnownOpen(run),
            tokens=unknown_tokens(run),
            positions=unknown_tokens(run, positions=True),
            open_cadence=settings.gamma_open_every_s,
            closed_cadence=settings.gamma_closed_every_s,
        )
    if name == "goldsky":
        return goldsky.goldsky(
            settings.goldsky_url,
            progress=progress,
            client=http_client(run, name),
            start=int(settings.goldsky_start.timestamp()),
            horizon=int(settings.goldsky_horizon.timestamp()),
            page_size=settings.goldsky_page_size,
        )
    return polygon.polygon(
        chain_endpoints(run),
        progress=progress,
        known_fills=KnownFills(run),
        versions=tuple(settings.polygon_versions.split(",")),
        lookback=settings.fills_lookback_s,
        pace=polygon.Pace(
            confirmations=settings.polygon_confirmations,
            stale_after=settings.polygon_stale_after_s,
            second_reading=settings.polygon_second_reading_s or None,
        ),
        recheck=recheck,
    )


def chain_endpoints(run: Run) -> Endpoints:
    """The endpoints of the chain, the same ones in every cycle."""
    if run.chain_endpoints is None:
        run.chain_endpoints = make_chain_endpoints(run.settings)
    return run.chain_endpoints


def make_chain_endpoints(settings: Settings, retry: RetryPolicy | None = None) -> Endpoints:
    """Who is asked about the chain, in order.

    The nodes of POLYGON_RPC_URL, else the SQD Portal. Public nodes stand behind the public Portal only: a Portal of
    one's own may serve another chain, such as a simulated one.

    Args:
        retry: how patient to be; else as the settings say, and less where another endpoint stands behind.
    """
    nodes, portal = settings.polygon_rpc_urls, settings.sqd_portal_url
    public = () if nodes or portal not in ("", sqd.PUBLIC_URL) else polygon.PUBLIC_RPC_URLS
    alone = len(nodes) + len(public) + bool(portal and not nodes) == 1
    if retry is None:
        attempts = RetryPolicy.attempts if alone else ATTEMPTS_BEFORE_THE_NEXT
        retry = RetryPolicy(attempts=attempts, max_wait=settings.http_give_up_s)

    def client(setting: str, limits: Sequence[RateLimit] = ()) -> HttpClient:
        timeout = (CONNECT_TIMEOUT_S, settings.http_timeout_s)
        return HttpClient(
            polygon.SOURCE, limits=limits, timeout=timeout, retry=retry, setting=setting
        )

    endpoints: list[Endpoint] = [Node(client("POLYGON_RPC_URL"), url) for url in nodes]
    if portal and not nodes:
        endpoints.append(sqd.Portal(client("SQD_PORTAL_URL", sqd.limits_of(portal)), portal))
    for url in public:
        endpoints.append(
            Node(
                client("POLYGON_RPC_URL"),
                url,
                batch=polygon.PUBLIC_RPC_BATCH,
                block_range=polygon.PUBLIC_RPC_RANGE,
            )
        )
    return Endpoints(endpoints)


def http_client(run: Run, name: str) -> HttpClient:
    """The HTTP client of a source, the same one in every cycle."""
    settings = run.settings
    if name not in run.http_clients:
        run.http_clients[name] = HttpClient(
            name,
            limits=RATE_LIMITS[name],
            timeout=(CONNECT_TIMEOUT_S, settings.http_timeout_s),
            retry=RetryPolicy(max_wait=settings.http_give_up_s),
        )
    return run.http_clients[name]


def destination(run: Run) -> ClickHouseHttp:
    """The dlt destination that loads into the landing database, as the holder of the lock if this run is."""
    server = run.server
    return clickhouse_destination(
        server.host,
        server.port,
        server.user,
        server.password,
        server.secure,
        run.settings.raw_database,
        Fence(run.ledger.prove, run.lock.sql_is_held(), run.lock.comment)
        if run.lock.number
        else NO_FENCE,
    )


class KnownVersions:
    """Which version of a market or event is the current one."""

    def __init__(self, run: Run):
        self._client, self._raw = run.client, run.settings.raw_database

    def __call__(self, table: str, ids: Sequence[str]) -> dict[str, Version]:
        """The current version by id, for those of `ids` that are stored in `table`."""
        rows = self._client.query(
            current_versions_sql(f"{self._raw}.{table}", TABLES[table].id_column),
            parameters={"ids": list(ids)},
        ).result_rows
        return {key: Version(*version) for key, *version in rows}


class KnownOpen:
    """Which markets or events are stored as open."""

    def __init__(self, run: Run):
        self._client, self._raw = run.client, run.settings.raw_database

    def __call__(self, table: str) -> list[str]:
        """Ids of `table` whose current version is open."""
        rows = self._client.query(open_ids_sql(f"{self._raw}.{table}", TABLES[table].id_column))
        return [key for (key,) in rows.result_rows]


def open_ids_sql(table: str, key: str) -> str:
    """Select the ids whose current version is open."""
    return f"select {key} from {table} group by {key} having not argMax(closed, fetched_at)"


def current_versions_sql(table: str, key: str) -> str:
    """Select the id, content hash, `fetched_at` and `updated_at` (microseconds) of the current version of each of `ids`."""
    return f"""
        select
            {key},
            argMax(content_hash, fetched_at),
            toUnixTimestamp64Micro(max(fetched_at)),
            argMax(tuple(toUnixTimestamp64Micro(updated_at)), fetched_at).1
        from {table}
        where {key} in {{ids:Array(String)}}
        group by {key}
    """


class KnownFills:
    """Landed fills of the chain in a range of blocks, as reading it again needs them."""

    def __init__(self, run: Run):
        self._client, self._raw = run.client, run.settings.raw_database

    def __call__(self, first: int, last: int) -> pa.Table:
        """Rows of `order_filled` in these blocks, both included."""
        return self._client.query_arrow(
            f"select * from {self._raw}.order_filled final"
            " where block_number between {first:UInt64} and {last:UInt64}",
            parameters={"first": first, "last": last},
            settings={"output_format_arrow_string_as_string": 1},
        )


def unknown_tokens(run: Run, most: int = 400, *, positions: bool = False) -> list[str]:
    """Tokens that were traded but whose market has not landed, busiest first, as decimal strings.

    Args:
        positions: those of ExchangeV3, combos aside, of which Gamma has no market; else all others.
    """
    wanted = "module not in ('', 'combo')" if positions else "module = ''"
    result: Any = run.client.query(
        f"select token_id from {run.settings.clickhouse_database}.unknown_tokens where {wanted}"
        f" order by trades desc, token_id limit {most}"
    )
    return [row[0] for row in result.result_rows]
