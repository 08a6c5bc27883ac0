"""The proxy of the crash tests: what each fault lets ClickHouse execute, and what its client sees of it."""

from __future__ import annotations

import http.client
import uuid
from collections.abc import Iterator

import pytest
from worlds import PATIENCE_S

from chaos.proxy import Proxy
from chaos.schedule import FAULT_KINDS, Fault
from embedded_clickhouse import Endpoint

CUT_OFF = (ConnectionError, http.client.HTTPException, http.client.IncompleteRead)
ROWS = b"\n".join(b"%d" % number for number in range(1000))


class Session:
    """One connection at a time to a port, on which statements are sent as they are."""

    def __init__(self, port: int, table: str, password: str) -> None:
        self._port, self._table = port, table
        self.signed = {"X-ClickHouse-Key": password}

    def send(self, statement: str, connection: http.client.HTTPConnection | None = None) -> bytes:
        """The body of the answer; whatever stopped it is raised."""
        connection = connection or http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=PATIENCE_S
        )
        body = statement.format(self._table).encode()
        connection.request("POST", "/?wait_end_of_query=1", body, self.signed)
        answer = connection.getresponse()
        if not answer.headers.get("X-ClickHouse-Summary"):
            raise http.client.HTTPException("cut in the headers")
        return answer.read()

    def rows(self) -> int:
        return int(self.send("select count() from {}"))


@pytest.fixture(scope="module")
def proxy(clickhouse: Endpoint) -> Iterator[Proxy]:
    with Proxy(clickhouse.port) as proxy:
        yield proxy


@pytest.fixture
def session(clickhouse: Endpoint, proxy: Proxy) -> Iterator[Session]:
    """Statements through the proxy on a table of this test's own."""
    table = f"default.t_{uuid.uuid4().hex[:8]}"
    session = Session(proxy.port, table, clickhouse.password)
    session.send("create table {} (a UInt32) engine = MergeTree order by a")
    yield session
    session.send("drop table {}")


EXECUTIONS = {
    "request lost": 0, "request reset": 0, "answer lost": 1, "answer reset": 1, "delayed": 1,
    "repeated": 2, "repeated at once": 2, "cut in the headers": 1,
}  # fmt: skip


@pytest.mark.parametrize("kind", EXECUTIONS)
def test_an_insert_is_executed_so_often(kind: str, proxy: Proxy, session: Session) -> None:
    proxy.arm([Fault(kind, inserts_only=True, gap=2, delay_ms=50, share=0.5)])
    before = proxy.done[kind]
    session.send("insert into {} values (1)")
    assert session.rows() == 1
    if kind in ("delayed", "repeated", "repeated at once"):
        assert session.send("insert into {} values (2)") == b""
    else:
        with pytest.raises(CUT_OFF):
            session.send("insert into {} values (2)")
    assert proxy.is_quiet()
    assert session.rows() == 1 + EXECUTIONS[kind]
    assert (proxy.left, proxy.done[kind]) == (0, before + 1)


@pytest.mark.parametrize("kind", FAULT_KINDS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_an_answer_is_whole_or_seen_to_be_cut(
    kind: str, share: float, proxy: Proxy, session: Session
) -> None:
    proxy.arm([Fault(kind, inserts_only=False, gap=1, delay_ms=1, share=share)])
    query = "select number from numbers(1000) format TSV"
    if kind in ("delayed", "repeated", "repeated at once"):
        assert session.send(query).strip() == ROWS
    else:
        with pytest.raises(CUT_OFF):
            session.send(query)
    assert proxy.is_quiet()
    assert session.send(query).strip() == ROWS


def test_the_clients_repetition_may_meet_the_same(proxy: Proxy, session: Session) -> None:
    fault = Fault("request lost", inserts_only=False, gap=1, twice=True)
    proxy.arm([fault])
    for _ in range(2):
        with pytest.raises(CUT_OFF):
            session.send("select 1")
    assert session.send("select 1") == b"1\n"


def test_an_answer_without_a_body_is_not_cut_in_it(proxy: Proxy, session: Session) -> None:
    proxy.arm([Fault("cut in the body", inserts_only=False, gap=1, share=0.5)])
    assert session.send("insert into {} values (1)") == b""
    assert proxy.left == 1
    with pytest.raises(CUT_OFF):
        session.send("select 12345")
    assert proxy.left == 0


def test_a_connection_is_used_again_and_a_chunked_body_passes(
    proxy: Proxy, session: Session
) -> None:
    proxy.arm([])
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE_S)
    assert session.send("select 1", connection) == b"1\n"
    pieces = [b"select ", b"2"]
    connection.request("POST", "/", iter(pieces), session.signed, encode_chunked=True)
    assert connection.getresponse().read() == b"2\n"
    assert session.send("select 3", connection) == b"3\n"
