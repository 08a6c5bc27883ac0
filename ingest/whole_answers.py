"""Connections to ClickHouse that take no part of an answer for the whole of it.

Python's HTTP client takes the end of a connection for the end of the headers, and a body without a length for one that
ends with the connection: an answer that was cut there counts as an empty result. Here both are a broken connection,
which clickhouse-connect reports as one line, or asks again where that is harmless. Bodies with a length, and chunked
ones, are checked by urllib3.
"""

from __future__ import annotations

from functools import lru_cache
from http.client import HTTPResponse, RemoteDisconnected
from typing import Any

from clickhouse_connect.driver.httputil import check_env_proxy, get_pool_manager
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection


class WholeResponse(HTTPResponse):
    """A response whose headers end with an empty line and say how long its body is."""

    def begin(self) -> None:
        """Read status and headers.

        Raises:
            RemoteDisconnected: the connection ended before the headers did, or they do not say how long the body is.
        """
        if self.headers is not None:
            return
        stream = self.fp
        self.fp = _Lines(stream)
        try:
            super().begin()
        finally:
            if isinstance(self.fp, _Lines):
                self.fp = stream
        if self.length is None and not self.chunked:
            raise RemoteDisconnected("the answer does not say how long it is")


class _Lines:
    """A stream whose lines are whole."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readline(self, limit: int = -1) -> bytes:
        line = self._stream.readline(limit)
        if not line.endswith(b"\n") and len(line) != limit:
            raise RemoteDisconnected("the answer ended inside its headers")
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Connection(HTTPConnection):
    response_class = WholeResponse


class _SecureConnection(HTTPSConnection):
    response_class = WholeResponse


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


@lru_cache
def pool_manager(host: str, port: int, secure: bool) -> PoolManager:
    """The connections to one ClickHouse, for `clickhouse_connect.get_client(pool_mgr=…)`; all clients share them.

    A proxy that the environment names is used, as clickhouse-connect itself does.
    """
    scheme = "https" if secure else "http"
    proxy = check_env_proxy(scheme, host, port)
    manager = get_pool_manager(**({f"{scheme}_proxy": proxy} if proxy else {}))
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager
