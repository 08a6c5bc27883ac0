"""Sending answers: held back until safe to start, compressed, and ended by the right error.

ClickHouse holds a result back until its buffer is full, or to its end with wait_end_of_query=1, so
that an early error still gets its own HTTP status. A later error ends the body with an exception
block and a broken connection, which no client can take for a complete result.
"""

from starlette.types import Message, Send

from embedded_clickhouse.blocks import BlockCompressor
from embedded_clickhouse.compression import Compressor, compressor
from embedded_clickhouse.protocol import ClickHouseError, exception_block

BLOCKS = "blocks"  # ClickHouse's own, which no header tells of
HELD_BACK_BYTES = 1024 * 1024


class Reply:
    """The response to one request.

    The last of it is sent by `finish`, once the session is free again: a client may use
    its session as soon as it has read an answer.

    Args:
        send: the ASGI channel.
        headers: sent with every answer, error or not.
        tag: what marks the exception block.
    """

    def __init__(self, send: Send, headers: dict[str, str], tag: str) -> None:
        self._send = send
        self._headers = headers
        self._tag = tag
        self._compressor: Compressor | None = None
        self._last: list[Message] = []
        self.has_started = False

    @property
    def query_id(self) -> str:
        """The id that the answer names."""
        return self._headers["X-ClickHouse-Query-Id"]

    def whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Answer in one piece, uncompressed."""
        start = self._start(status, {**headers, "Content-Length": str(len(body))})
        self._last = [start, {"type": "http.response.body", "body": body}]

    async def begin(self, headers: dict[str, str], encoding: str | None) -> None:
        """Start a body of unknown length."""
        if encoding == BLOCKS:
            self._compressor = BlockCompressor()
        elif encoding is not None:
            self._compressor = compressor(encoding)
            headers = {**headers, "Content-Encoding": encoding}
        self.has_started = True
        await self._send(self._start(200, {**headers, "X-ClickHouse-Exception-Tag": self._tag}))

    async def piece(self, data: bytes) -> None:
        """Send more of the body, waiting while the client is slower."""
        if self._compressor is not None:
            data = self._compressor.compress(data)
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def end(self) -> None:
        """Complete the body."""
        rest = self._compressor.flush() if self._compressor is not None else b""
        self._last = [{"type": "http.response.body", "body": rest}]

    async def finish(self) -> None:
        """Send the last of the answer."""
        for message in self._last:
            await self._send(message)

    async def fail(
        self, error: ClickHouseError, *, keep_alive: bool = True, encoding: str | None = None
    ) -> None:
        """Answer with an error; a body that has begun ends with it and a dropped connection.

        Args:
            error: what went wrong.
            keep_alive: whether the connection may be used again.
            encoding: how the client takes its answers, an HTTP encoding or none.
        """
        if self.has_started:
            await self.piece(exception_block(error.text, self._tag))
            if self._compressor is not None:
                rest = self._compressor.flush()
                await self._send({"type": "http.response.body", "body": rest, "more_body": True})
            return
        headers = {
            "Content-Type": "text/plain; charset=UTF-8",
            "X-ClickHouse-Exception-Code": str(error.code),
        }
        if not keep_alive:
            headers["Connection"] = "close"
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        body = f"{error.text}\n".encode()
        if encoding is not None:
            packer = compressor(encoding)
            body = packer.compress(body) + packer.flush()
            headers["Content-Encoding"] = encoding
        self.whole(error.status, body, headers)

    def _start(self, status: int, headers: dict[str, str]) -> Message:
        pairs = {**self._headers, **headers}.items()
        return {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
        }
