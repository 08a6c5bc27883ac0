"""Clients that are slow, many, or gone keep nobody else from the embedded ClickHouse."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from test_embedded_clickhouse_http import ask
from worlds import PATIENCE_S

from embedded_clickhouse import Endpoint, running

ENDLESS = "select sum(cityHash64(number, {n})) from numbers(100000000000) /* crowd */"
LARGE = "select number, {n} from numbers(10000000000) /* crowd */"
CROWD_RUNS = b"select count() from system.processes where query like '%/* crowd' || ' */%'"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A server that waits half a second for a client."""
    with running(tmp_path_factory.mktemp("impatient"), 0, patience=0.5) as endpoint:
        yield endpoint


def join(endpoint: Endpoint, sql: str, length: int | None = None) -> socket.socket:
    """Send a statement, and read nothing of its answer."""
    client = socket.create_connection((endpoint.host, endpoint.port), timeout=PATIENCE_S)
    length = len(sql) if length is None else length
    client.sendall(
        f"POST / HTTP/1.1\r\nHost: localhost\r\nX-ClickHouse-Key: {endpoint.password}\r\n"
        f"Content-Length: {length}\r\n\r\n{sql}".encode()
    )
    return client


def read_to_end(client: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    pieces = []
    try:
        while piece := client.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def wait_until_gone(endpoint: Endpoint) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (left := ask(endpoint, CROWD_RUNS).text) != "0\n":
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\nHost: loc"])
def test_a_head_that_does_not_end_is_not_waited_for(impatient: Endpoint, sent: bytes) -> None:
    with socket.create_connection((impatient.host, impatient.port), timeout=PATIENCE_S) as client:
        client.sendall(sent)
        assert read_to_end(client) == b""


def test_a_second_head_that_does_not_end_is_not_waited_for(impatient: Endpoint) -> None:
    with join(impatient, "select 1") as client:
        while not client.recv(65536).endswith(b"0\r\n\r\n"):
            pass
        time.sleep(0.6)  # between requests a client may take its time
        client.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\nGET /")
        assert read_to_end(client).endswith(b"Ok.\n")


def test_a_body_that_does_not_come_is_an_error(impatient: Endpoint) -> None:
    with join(impatient, "select ", length=100) as client:
        answer = read_to_end(client)
    assert b"Code: 209. DB::Exception: Nothing of the request's body came for 0.5 s" in answer


def test_a_reader_who_takes_nothing_is_cut(impatient: Endpoint) -> None:
    with join(impatient, LARGE.format(n=1)) as client:
        client.recv(1000)
        wait_until_gone(impatient)
        assert b"__exception__" not in read_to_end(client)


def test_a_crowd_keeps_nobody_waiting_and_leaves_nothing(clickhouse: Endpoint) -> None:
    crowd = [join(clickhouse, text.format(n=n)) for n in range(40) for text in (ENDLESS, LARGE)]
    for _ in range(3):
        assert ask(clickhouse, b"select 1").text == "1\n"
    for client in crowd:
        client.close()
    wait_until_gone(clickhouse)


def test_a_select_that_had_to_stop_is_answered_as_if_it_had_not(clickhouse: Endpoint) -> None:
    answers: dict[int, str] = {}

    def work(n: int) -> None:
        sql = f"select sum(cityHash64(number) % 7 + {n}) from numbers(30000000)"
        answers[n] = ask(clickhouse, sql.encode()).text

    threads = [threading.Thread(target=work, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = int(answers[0])
    assert answers == {n: f"{first + n * 30_000_000}\n" for n in range(24)}
