"""The HTTP client against a real server: what it retries, what it refuses, how it says so."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import pytest
from scripted_server import HTML, Answer, ScriptedServer, as_json

from ingest.errors import (
    AccessDenied,
    HttpStatusError,
    NotJson,
    RateLimited,
    Timeout,
    Unreachable,
    UpstreamError,
    mask_url,
)
from ingest.http import HttpClient
from ingest.http_answers import parse_retry_after
from ingest.rate_limits import RateLimit, RateLimiter
from ingest.retries import RetryPolicy


class Sleeps(list):
    """Stands in for sleep: notes the seconds, so that tests do not wait."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def client(sleeps: Sleeps, **options: object) -> HttpClient:
    return HttpClient("gamma", sleep=sleeps, timeout=(1.0, 0.5), **options)


def answers(*script: Answer):
    """Responds with each answer in turn, and with the last one from then on."""
    left = list(script)
    return lambda path, body: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize(
    "fault",
    [
        as_json({}, status=503),
        as_json({}, status=429),
        HTML,
        as_json({"rows": "x" * 100}, cut=True),
        Answer(reset=True),
        Answer(b"not gzip", headers={"Content-Encoding": "gzip"}),
        Answer(delay=0.8),
    ],
    ids=["503", "429", "html", "truncated", "reset", "bad gzip", "slow"],
)
def test_one_fault_is_retried(fault: Answer) -> None:
    sleeps = Sleeps()
    with ScriptedServer(answers(fault, as_json({"ok": True}))) as server:
        assert client(sleeps).get_json(server.url) == {"ok": True}
        assert len(server.requests) == 2
    assert len(sleeps) == 1


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (HTML, NotJson, "an HTML or XML page instead of JSON"),
        (Answer(b'{"a": [1, 2'), NotJson, "not JSON"),
        (as_json({"a": "b" * 99}, cut=True), Unreachable, "broke in mid-answer"),
        (Answer(b"not gzip", headers={"Content-Encoding": "gzip"}), NotJson, "compression"),
        (as_json({"error": "slow down"}, status=429), RateLimited, "slow down"),
        (as_json({}, status=500), HttpStatusError, "HTTP 500"),
        (as_json({}, status=504), Timeout, "HTTP 504"),
        (Answer(reset=True), Unreachable, "the connection broke"),
    ],
)
def test_a_lasting_fault_is_a_named_error(
    fault: Answer, error: type[UpstreamError], words: str
) -> None:
    sleeps = Sleeps()
    with ScriptedServer(answers(fault)) as server, pytest.raises(error) as caught:
        client(sleeps, retry=RetryPolicy(attempts=3)).get_json(server.url + "/x")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.url == server.url + "/x"
    assert len(sleeps) == 2


def test_a_client_error_is_not_retried() -> None:
    sleeps = Sleeps()
    answer = as_json({"error": "order fields are not valid"}, status=422)
    with ScriptedServer(answers(answer)) as server, pytest.raises(HttpStatusError) as caught:
        client(sleeps).get_json(server.url)
    assert caught.value.status == 422
    assert "order fields are not valid" in str(caught.value)
    assert sleeps == []


def test_a_dead_upstream_says_why() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        with pytest.raises(Unreachable, match="refused"):
            client(Sleeps(), retry=RetryPolicy(attempts=2)).get_json(url)


def test_retry_after_is_obeyed_and_total_waiting_is_bounded() -> None:
    sleeps = Sleeps()
    storm = as_json({}, status=429, headers={"Retry-After": "40"})
    with ScriptedServer(answers(storm)) as server, pytest.raises(RateLimited):
        client(sleeps, retry=RetryPolicy(attempts=100, max_wait=100)).get_json(server.url)
    assert sleeps == [40, 40]


def test_backoff_grows_and_is_jittered() -> None:
    sleeps = Sleeps()
    with ScriptedServer(answers(as_json({}, status=503))) as server, pytest.raises(HttpStatusError):
        client(sleeps, retry=RetryPolicy(attempts=5, first_wait=1, longest_wait=4)).get_json(
            server.url
        )
    for waited, longest in zip(sleeps, [1, 2, 4, 4], strict=True):
        assert longest / 2 <= waited <= longest


def dripping() -> Iterator[str]:
    """A server that sends a space every tenth of a second, for as long as the client listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=drip, args=(connection,), daemon=True).start()

        def drip(connection: socket.socket) -> None:
            with suppress(OSError), connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.1)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def test_lines_that_drip_are_a_timeout() -> None:
    """A limit for each read alone would never end them."""
    with contextmanager(dripping)() as url, pytest.raises(Timeout):
        slow = HttpClient("test", timeout=(5, 0.2), retry=RetryPolicy(attempts=1))
        slow.post_lines(url, {}, most_bytes=1 << 20)


def test_timeouts_are_left_to_the_caller_on_request() -> None:
    sleeps = Sleeps()
    with ScriptedServer(answers(Answer(delay=0.8))) as server, pytest.raises(Timeout):
        client(sleeps).post_json(server.url, {}, retry_timeouts=False)
    assert sleeps == []


def test_retry_after_as_date() -> None:
    now = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
    assert parse_retry_after("Sat, 21 Nov 2026 04:00:30 GMT", now) == 30
    assert parse_retry_after("Sat, 21 Nov 2026 03:00:00 GMT", now) == 0
    assert parse_retry_after("soon") is None


def test_rate_limit_is_a_sliding_window_per_path() -> None:
    time = [0.0]

    def sleep(seconds: float) -> None:
        time[0] += seconds

    limits = [RateLimit(5), RateLimit(2, paths=("/markets",))]
    limiter = RateLimiter(limits, clock=lambda: time[0], sleep=sleep)
    sent = []
    for path in ["/markets", "/markets/keyset", "/events", "/markets", "/events", "/events"]:
        limiter.wait(path)
        sent.append(time[0])
    # The third market waits for the first to leave its window; by then all others have left too.
    assert sent == [0, 0, 0, 10, 10, 10]


def test_rate_limit_holds_between_threads() -> None:
    time, lock, sent = [0.0], threading.Lock(), []

    def sleep(seconds: float) -> None:
        with lock:
            time[0] += seconds

    limiter = RateLimiter([RateLimit(10)], clock=lambda: time[0], sleep=sleep)

    def work() -> None:
        for _ in range(10):
            limiter.wait("/")
            sent.append(time[0])

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 50
    assert time[0] >= 40  # 50 requests at 10 per 10 s


def test_urls_are_masked() -> None:
    assert mask_url("https://polygon.example/v2/abcd1234efgh5678ijkl") == (
        "https://polygon.example/v2/abcd***"
    )
    assert mask_url("https://u:p@x.example/rpc?apikey=s3cr3t&n=1") == (
        "https://x.example/rpc?apikey=***&n=1"
    )


def test_a_key_in_the_address_is_in_no_message() -> None:
    key = "abcd1234efgh5678ijkl"
    refusal = answers(as_json({}, status=400))
    with ScriptedServer(refusal) as server, pytest.raises(HttpStatusError) as caught:
        client(Sleeps()).get_json(f"{server.url}/v2/{key}", [("api_key", key)])
    assert key not in str(caught.value)
    assert key not in caught.value.url


def test_lines_of_an_answer_come_after_other_requests_too() -> None:
    """One session serves both; what was found out for its first request must not hold for a stream."""

    def respond(path: str, body: bytes) -> Answer:
        return Answer(b"1\n2\n3" if body else b"{}")

    with ScriptedServer(respond) as server:
        one = HttpClient("polygon")
        for _ in range(2):
            assert one.get_json(server.url) == {}
            answer = one.post_lines(server.url, {}, most_bytes=100)
            assert (answer.lines, answer.is_cut) == ([b"1", b"2", b"3"], False)
        assert one.post_lines(server.url, {}, most_bytes=2).is_cut


def test_denied_access_names_the_setting() -> None:
    refusal = as_json({"error": "message: API key disabled, reason: tenant disabled"}, status=401)
    one = HttpClient("polygon", setting="POLYGON_RPC_URL", sleep=lambda seconds: None)
    with ScriptedServer(answers(refusal)) as server, pytest.raises(AccessDenied) as caught:
        one.get_json(server.url)
    assert "tenant disabled" in str(caught.value) and "set POLYGON_RPC_URL" in str(caught.value)
    assert len(server.requests) == 1, "asking again is of no use"
