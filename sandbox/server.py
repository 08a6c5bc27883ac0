"""The simulated Polymarket on one loopback port: Gamma, the subgraph, a Polygon node, an SQD Portal, the
Data API, the CLOB and archives of Parquet files, each under its own path.

`build_app` puts the upstreams together, `SandboxServer` runs them in a thread for tests, `serve` in
the foreground with new blocks at a steady pace. Requests pass one middleware that counts them and
lets `faults` happen to them.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.clob import clob_app
from sandbox.clock import BLOCK_SECONDS
from sandbox.data_api import data_api_app
from sandbox.faults import Faults
from sandbox.gamma import gamma_app
from sandbox.goldsky import goldsky_app
from sandbox.parquet import parquet_app
from sandbox.polygon import NodeLimits, polygon_app
from sandbox.sqd import PortalLimits, portal_app
from sandbox.truth import Truth
from sandbox.wire import Answer, DroppableProtocol, Request, answer_of, read_request, send_answer
from sandbox.world import World

_START_TIMEOUT = 20.0  # seconds
# The subgraph's path on its real host, so that a URL looks like the real one.
_SUBGRAPH_PATH = "/goldsky/api/public/project_sandbox/subgraphs/orderbook-subgraph/0.0.1/gn"


@dataclass(frozen=True)
class Urls:
    """Base URLs of the upstreams, to be put into the settings of the same names."""

    gamma_url: str
    goldsky_url: str
    polygon_url: str
    data_url: str = ""
    sqd_url: str = ""
    clob_url: str = ""
    parquet_url: str = ""

    @classmethod
    def at(cls, port: int) -> Urls:
        """The URLs of a sandbox on loopback port `port`."""
        base = f"http://127.0.0.1:{port}"
        return cls(
            f"{base}/gamma",
            f"{base}{_SUBGRAPH_PATH}",
            f"{base}/polygon",
            f"{base}/data",
            f"{base}/sqd",
            f"{base}/clob",
            f"{base}/parquet",
        )

    def environment(self) -> dict[str, str]:
        """The settings that point the pipeline at the sandbox."""
        return {
            "POLYMARKET_GAMMA_URL": self.gamma_url,
            "GOLDSKY_URL": self.goldsky_url,
            "POLYGON_RPC_URL": self.polygon_url,
            "POLYMARKET_DATA_URL": self.data_url,
            "SQD_PORTAL_URL": self.sqd_url,
            "POLYMARKET_CLOB_URL": self.clob_url,
        }


class RequestMiddleware:
    """Sees every request before its upstream does: counts it, and lets faults happen to it.

    Attributes:
        counts: requests by path.
        faults: none at first.
    """

    def __init__(self, app: ASGIApp, world: World) -> None:
        self._app = app
        self.counts: Counter[str] = Counter()
        self.faults = Faults(world)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request and pass it on, by way of the faults that it meets."""
        if scope["type"] == "http":
            self.counts[scope["path"]] += 1
            if self.faults.matches(scope["path"]):
                await self._faulty(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _faulty(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def ask(request: Request) -> Answer:
            return await answer_of(self._app, scope, request)

        answer = await self.faults.answer(await read_request(scope, receive), ask)
        await send_answer(answer, scope, receive, send)


def build_app(
    world: World, limits: NodeLimits | None = None, portal_limits: PortalLimits | None = None
) -> RequestMiddleware:
    """All upstreams over `world`, and `/sandbox/{advance,truth,stats}` to steer and watch it."""

    truths: dict[str, Truth] = {}  # by the hash of the head, of the newest only

    def current_truth() -> Truth:
        with world.lock:
            head = world.chain.block_hash(world.chain.head)
            if head not in truths:
                truths.clear()
                truths[head] = Truth(world)
            return truths[head]

    async def advance(request: HttpRequest) -> Response:
        body = orjson.loads(await request.body() or b"{}")
        world.advance(int(body.get("blocks", 1)))
        return _json({"head": world.chain.head, "now": world.now})

    async def truth(request: HttpRequest) -> Response:
        with world.lock:
            return _json(current_truth().totals())

    async def stats(request: HttpRequest) -> Response:
        return _json(dict(app.counts))

    upstreams = Starlette(
        routes=[
            Mount("/gamma", gamma_app(world.gamma, world.lock)),
            Mount("/clob", clob_app(world)),
            Mount("/data", data_api_app(current_truth, lambda: world.now)),
            Mount("/goldsky", goldsky_app(world.archive_fills())),
            # Not mounted: a node answers on its bare URL, where a mount would redirect.
            Route("/polygon", polygon_app(world.chain, limits, world.lock)),
            Mount("/parquet", parquet_app(world)),
            Mount("/sqd", portal_app(world.chain, portal_limits, world.lock)),
            Route("/sandbox/advance", advance, methods=["POST"]),
            Route("/sandbox/truth", truth),
            Route("/sandbox/stats", stats),
        ]
    )
    app = RequestMiddleware(upstreams, world)
    return app


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")


class AppServer:
    """Any ASGI app on a loopback port, served from a thread; use as a context manager.

    `port` 0 takes a free one; it is known as `port` once the server is up.
    """

    def __init__(self, app: ASGIApp, port: int = 0) -> None:
        # Naming the protocol makes asyncio set TCP_NODELAY, without which an answer takes 40 ms.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", port))
        except OSError as error:
            self._socket.close()
            raise OSError(error.errno, f"port {port} is taken; choose another one") from None
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app, log_level="warning", lifespan="off", access_log=False, http=DroppableProtocol
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:<port>`."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> AppServer:
        """Start, and wait until requests are answered.

        Raises:
            RuntimeError: the server did not come up.
        """
        self._thread.start()
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the sandbox did not start on port {self.port}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop and free the port."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


class SandboxServer(AppServer):
    """The upstreams of one world on a loopback port."""

    def __init__(
        self,
        world: World,
        port: int = 0,
        limits: NodeLimits | None = None,
        portal_limits: PortalLimits | None = None,
    ) -> None:
        self.world = world
        self.app = build_app(world, limits, portal_limits)
        super().__init__(self.app, port)

    @property
    def urls(self) -> Urls:
        """Where the upstreams are."""
        return Urls.at(self.port)


def serve(
    world: World,
    port: int,
    *,
    stop: threading.Event,
    live: bool = True,
    block_time: float = BLOCK_SECONDS,
    limits: NodeLimits | None = None,
    faults: Iterable[tuple[str, float]] = (),
) -> None:
    """Serve until `stop` is set; with `live`, mine a block every `block_time` seconds.

    Prints the settings to copy. The caller owns the signals: its handler sets `stop`. `faults` are names of
    `sandbox.faults.FAULTS` and probabilities.

    Raises:
        OSError: the port is taken.
    """
    with SandboxServer(world, port, limits) as server:
        for name, probability in faults:
            server.app.faults.add(name, probability=probability)
        print(f"Simulated Polymarket: seed {world.seed}, block {world.chain.head}. To use it:")
        for name, value in server.urls.environment().items():
            print(f"  export {name}={value}", flush=True)
        next_block = time.monotonic() + block_time
        while not stop.wait(max(0.0, next_block - time.monotonic())):
            next_block += block_time
            if live:
                world.advance(1)
