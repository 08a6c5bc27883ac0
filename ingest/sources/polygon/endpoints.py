"""Who is asked about the chain, in order."""

from __future__ import annotations

from collections.abc import Sequence

from ingest.http import HttpClient
from ingest.rate_limits import RateLimit
from ingest.retries import RetryPolicy
from ingest.setting_types import listed
from ingest.sources.desk import Desk
from ingest.sources.polygon.chain import SOURCE, Endpoint, Endpoints
from ingest.sources.polygon.rpc import Node
from ingest.sources.polygon.settings import SQD_PUBLIC_URL
from ingest.sources.sqd import portal as sqd

PUBLIC_RPC_URLS = ("https://polygon.drpc.org", "https://1rpc.io/matic")
# What they take: small batches, small ranges.
PUBLIC_RPC_BATCH, PUBLIC_RPC_RANGE = 3, 16
# Of one endpoint, where another one stands behind it.
ATTEMPTS_BEFORE_THE_NEXT = 3


def endpoints_of(desk: Desk) -> Endpoints:
    """The nodes of POLYGON_RPC_URL, else the SQD Portal; the same ones in every cycle.

    Public nodes stand behind the public Portal only: a Portal of one's own may serve another chain, such as a simulated
    one.
    """
    return desk.kept("endpoints of the chain", lambda: make_endpoints(desk))


def make_endpoints(desk: Desk) -> Endpoints:
    """See `endpoints_of`: new ones."""
    settings = desk.settings
    nodes, portal = listed(settings.polygon_rpc_url), settings.sqd_portal_url
    public = () if nodes or portal not in ("", SQD_PUBLIC_URL) else PUBLIC_RPC_URLS
    alone = len(nodes) + len(public) + bool(portal and not nodes) == 1
    attempts = RetryPolicy.attempts if alone else ATTEMPTS_BEFORE_THE_NEXT
    retry = RetryPolicy(attempts=attempts, max_wait=settings.http_give_up_s)

    def client(setting: str, limits: Sequence[RateLimit] = ()) -> HttpClient:
        return desk.new_client(SOURCE, limits, setting, retry)

    endpoints: list[Endpoint] = [Node(client("POLYGON_RPC_URL"), url) for url in nodes]
    if portal and not nodes:
        endpoints.append(sqd.Portal(client("SQD_PORTAL_URL", sqd.limits_of(portal)), portal))
    for url in public:
        endpoints.append(_public_node(client("POLYGON_RPC_URL"), url))
    return Endpoints(endpoints)


def public_endpoints() -> Endpoints:
    """The public SQD Portal, and public nodes behind it."""
    portal = sqd.Portal(HttpClient(SOURCE, limits=sqd.limits_of(SQD_PUBLIC_URL)), SQD_PUBLIC_URL)
    return Endpoints([portal, *(_public_node(HttpClient(SOURCE), url) for url in PUBLIC_RPC_URLS)])


def _public_node(client: HttpClient, url: str) -> Node:
    return Node(client, url, batch=PUBLIC_RPC_BATCH, block_range=PUBLIC_RPC_RANGE)
