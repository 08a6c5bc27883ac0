"""Answers of ClickHouse that are cut anywhere: one error, never an empty or a shorter result."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from embedded_clickhouse import Endpoint
from ingest.whole_answers import pool_manager


class Cutting(socketserver.ThreadingTCPServer):
    """Passes requests on, one to a connection, and cuts answers after so many bytes."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, endpoint: Endpoint) -> None:
        self.target = (endpoint.host, endpoint.port)
        self.keeps: int | None = None
        self.answers: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(socketserver.BaseRequestHandler):
    server: Cutting

    def handle(self) -> None:
        request = _request(self.request)
        with socket.create_connection(self.server.target) as upstream:
            upstream.sendall(request)
            answer = _answer(upstream)
        self.server.answers.append(answer)
        self.request.sendall(answer[: self.server.keeps])


def _request(connection: socket.socket) -> bytes:
    """A whole request, whose body has a length or is chunked, without keeping the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *([0-9]+)", head)
    while not (len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")):
        body += connection.recv(65536)
    return head + b"\r\nConnection: close\r\n\r\n" + body


def _answer(upstream: socket.socket) -> bytes:
    data = b""
    while piece := upstream.recv(65536):
        data += piece
    return data


@contextmanager
def cutting(endpoint: Endpoint) -> Iterator[Cutting]:
    with Cutting(endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("kind", ["query", "command", "insert"])
def test_an_answer_that_is_cut_anywhere_is_an_error_or_whole(
    clickhouse: Endpoint, kind: str
) -> None:
    with cutting(clickhouse) as proxy:
        port = proxy.server_address[1]
        client = clickhouse_connect.get_client(
            host="127.0.0.1",
            port=port,
            password=clickhouse.password,
            pool_mgr=pool_manager("127.0.0.1", port, False),
            autogenerate_session_id=False,
        )
        client.command("create table if not exists cut (number UInt64) engine = Null")
        calls = {
            "query": lambda: client.query("select number from numbers(3)").result_rows,
            "command": lambda: client.command("select 7"),
            "insert": lambda: client.insert("cut", [[1]], column_names=["number"]).written_rows,
        }
        call = calls[kind]
        wanted = call()
        whole, failures = len(proxy.answers[-1]), 0
        for keeps in [*range(0, whole - 1, 23), whole - 2, whole - 1]:
            proxy.keeps = keeps
            try:
                answered = call()
            except ClickHouseError:
                failures += 1
            else:
                assert answered == wanted, f"cut after {keeps} of {whole} bytes"
            proxy.keeps = None
        assert failures > whole / 23 - 2  # but for the empty line that ends a body
        assert call() == wanted
