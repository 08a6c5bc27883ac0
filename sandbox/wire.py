"""Requests and answers of the simulated upstreams as plain data, and answers sent badly on purpose.

Between the server and its upstreams, so that a fault may change a request, an answer, or the way in which an answer
travels: cut in half, stalled, or no answer but a connection that is reset.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import ClassVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

JSON = {"Content-Type": "application/json"}
STALL_S = 20.0  # longest stall of a body; a client that waits longer gets the rest


@dataclass(frozen=True)
class Request:
    """A request to one upstream: its path, its query string as sent, and its body."""

    path: str
    query: bytes
    body: bytes


@dataclass(frozen=True)
class Answer:
    """An answer and how it travels.

    Attributes:
        status, headers, body: as in HTTP; the length is added when it is sent.
        reset: the connection is reset in place of an answer.
        cut: after half of the body the connection is closed.
        stalled: after half of the body comes a silence of `STALL_S` seconds.
    """

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    reset: bool = False
    cut: bool = False
    stalled: bool = False


class DroppableProtocol(H11Protocol):
    """uvicorn's HTTP protocol, whose open connections can be found by their two ends."""

    by_ends: ClassVar[dict[tuple, asyncio.Transport]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Remember the connection."""
        super().connection_made(transport)
        self.by_ends[self.client, self.server] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.by_ends.pop((self.client, self.server), None)
        super().connection_lost(exc)


async def read_request(scope: Scope, receive: Receive) -> Request:
    """The whole request."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return Request(scope["path"], scope["query_string"], body)


async def answer_of(app: ASGIApp, scope: Scope, request: Request) -> Answer:
    """What an app answers to a request, which may differ from the one that came in with `scope`."""
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    asked = scope | {"query_string": request.query}
    await app(asked, receive, send)
    start = messages[0]
    headers = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    headers.pop("content-length", None)
    body = b"".join(message.get("body", b"") for message in messages)
    return Answer(body, start["status"], headers)


async def send_answer(answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    """Send the answer, in the way that it says."""
    if answer.reset:
        await _hang_up(scope, receive, politely=False)
        return
    headers = answer.headers | {"Content-Length": str(len(answer.body))}
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
    half = len(answer.body) // 2
    if answer.cut or answer.stalled:
        await send({"type": "http.response.body", "body": answer.body[:half], "more_body": True})
    if answer.cut:
        await _hang_up(scope, receive, politely=True)
        return
    if answer.stalled:
        try:
            await asyncio.wait_for(_gone(receive), STALL_S)
        except TimeoutError:
            pass
        else:
            return
    rest = answer.body[half:] if answer.stalled else answer.body
    await send({"type": "http.response.body", "body": rest})


async def _hang_up(scope: Scope, receive: Receive, *, politely: bool) -> None:
    """Close the connection; if not politely, with a reset, so that the client sees no end of it."""
    transport = DroppableProtocol.by_ends[scope["client"], scope["server"]]
    if politely:
        transport.close()
    else:
        no_linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, no_linger
        )
        transport.abort()
    await _gone(receive)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
