"""Connections that make no progress are closed: heads that do not end, answers that nobody takes.

uvicorn waits for both without end. Bodies, the third way to keep a server waiting, are watched where
they are read (`with_deadline`), because only there it is known whether a statement waits for them.
"""

import asyncio
import socket
from typing import Any, ClassVar

import h11
from starlette.types import Message, Receive
from uvicorn.protocols.http.h11_impl import H11Protocol

from embedded_clickhouse.protocol import Code, refusal

PATIENCE_S = 30.0  # ClickHouse's http_receive_timeout and http_send_timeout
# A client that takes less than this in that time reads no result, it holds one.
_TAKEN_BYTES = 64 * 1024
_MAX_HEADERS = 1000
_SEND_BUFFER_BYTES = 256 * 1024


class Connection(H11Protocol):
    """uvicorn's connection with deadlines: `patience` seconds for a head, and for each 64 KiB of an answer."""

    patience: ClassVar[float] = PATIENCE_S

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # The kernel would take megabytes for a reader who takes nothing.
        peer = transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._head = self.loop.call_later(self.patience, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head = _cancelled(self._head)
        self._taking = _cancelled(self._taking)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        if self.conn.their_state is h11.IDLE and self._has_many_headers():
            self.send_400_response("The request has too many headers.")
            return
        try:
            super().handle_events()
        except UnicodeDecodeError:  # in a URL; what h11 lets pass
            self.send_400_response("The URL is not ASCII text.")
            return
        is_in_head = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if not is_in_head:
            self._head = _cancelled(self._head)
        elif self._head is None:
            self._head = self.loop.call_later(self.patience, self.transport.abort)

    def _has_many_headers(self) -> bool:
        head, _, _ = self.conn.trailing_data[0].partition(b"\r\n\r\n")
        return head.count(b"\n") > _MAX_HEADERS

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._taking = _cancelled(self._taking)
        super().resume_writing()

    def _watch_reader(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._taking = self.loop.call_later(self.patience, self._check_reader, waiting)

    def _check_reader(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < _TAKEN_BYTES:
            self.transport.abort()
        else:
            self._watch_reader()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def with_deadline(receive: Receive, patience: float) -> Receive:
    """`receive`, which gives up on a body of which nothing comes for `patience` seconds.

    Raises:
        ClickHouseError: nothing came (209).
    """
    is_read = False

    async def receiving() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError:
            raise refusal(
                Code.SOCKET_TIMEOUT,
                f"Nothing of the request's body came for {patience:g} s: timeout exceeded while reading",
            ) from None
        is_read = not message.get("more_body", False)
        return message

    return receiving
