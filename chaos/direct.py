"""Answers of simulated endpoints in the thread that asks, without a socket."""

from __future__ import annotations

import io
from http.client import IncompleteRead
from typing import Any
from urllib.parse import urlsplit

from requests import ConnectionError
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ProtocolError
from urllib3.response import HTTPResponse

from ingest.http import HttpClient
from ingest.sources.polygon.chain import SOURCE
from sandbox.farm import Farm
from sandbox.wire import Request


class Direct(HTTPAdapter):
    """Answers requests in this thread, without a socket: a third of the time, for runs of many stories."""

    def __init__(self, farm: Farm) -> None:
        super().__init__()
        self._farm = farm

    def send(self, request: Any, stream: bool = False, **options: Any) -> Any:
        """See `requests.adapters.HTTPAdapter`."""
        body = request.body or b""
        path = urlsplit(request.url).path
        answer = self._farm.respond(
            Request(path, b"", body if isinstance(body, bytes) else body.encode())
        )
        if answer.reset:
            cause = ConnectionResetError(104, "Connection reset by peer")
            raise ConnectionError(ProtocolError("Connection aborted.", cause), request=request)
        half = len(answer.body) // 2
        content = _Broken(answer.body[:half]) if answer.cut else io.BytesIO(answer.body)
        raw = HTTPResponse(
            content,
            headers=answer.headers,
            status=answer.status,
            preload_content=False,
            decode_content=False,
        )
        response = self.build_response(request, raw)
        if not stream:
            _ = response.content
        return response


class DirectClient(HttpClient):
    """The client over `Direct`, also in the background."""

    def __init__(self, farm: Farm, **options: Any) -> None:
        self._farm = farm
        super().__init__(SOURCE, **options)

    def _open_session(self) -> None:
        super()._open_session()
        self._session.mount("http://", Direct(self._farm))


class _Broken(io.BytesIO):
    """A body whose connection closes before its end."""

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        if not found:
            raise ProtocolError("Connection broken: IncompleteRead", IncompleteRead(self.tell()))
        return found
