"""Many endpoints on one loopback port, each under its own path: cheap enough for thousands in a run."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Protocol

from starlette.types import Receive, Scope, Send

from sandbox.server import AppServer
from sandbox.sqd import gzipped
from sandbox.wire import Answer, Request, read_request, send_answer


class Responder(Protocol):
    """What answers requests: `providers.Endpoint`, `portals.PortalEndpoint`, `sqd.Portal`."""

    def respond(self, request: Request) -> Answer:
        """The answer to one request; its path is what follows the endpoint's own."""


class Farm(AppServer):
    """Serves responders under `/provider/<n>`; use as a context manager.

    Attributes:
        bytes_sent: sum of the bodies, before compression.
        errors: what responders raised, which is a mistake of theirs; the client gets a 500.
    """

    def __init__(self, port: int = 0) -> None:
        self._responders: dict[str, Responder] = {}
        self._numbers = count(1)
        self.bytes_sent = 0
        self.errors: list[Exception] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(scope, receive, send)

        super().__init__(app, port)

    def add(self, responder: Responder) -> str:
        """Serve a responder; returns its URL."""
        name = str(next(self._numbers))
        self._responders[name] = responder
        return f"{self.base_url}/provider/{name}"

    def remove(self, url: str) -> None:
        """Serve the responder of this URL no more."""
        del self._responders[url.rpartition("/")[2]]

    def respond(self, request: Request) -> Answer:
        """The answer to a request for any path."""
        _, _, name, *rest = request.path.split("/")
        responder = self._responders.get(name)
        if responder is None:
            return Answer(b"not found", 404, {"Content-Type": "text/plain"})
        try:
            answer = responder.respond(replace(request, path="/" + "/".join(rest)))
        except Exception as error:
            self.errors.append(error)
            return Answer(repr(error).encode(), 500, {"Content-Type": "text/plain"})
        self.bytes_sent += len(answer.body)
        return answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.respond(await read_request(scope, receive))
        accepts = dict(scope["headers"]).get(b"accept-encoding", b"")
        if b"gzip" in accepts:
            answer = gzipped(answer)
        await send_answer(answer, scope, receive, send)
