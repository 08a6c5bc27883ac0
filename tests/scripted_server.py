"""A real HTTP server on loopback that answers what a test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson


@dataclass
class Answer:
    """One HTTP answer. `cut` sends only half of the body; `reset` hangs up without a word."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    cut: bool = False
    reset: bool = False
    delay: float = 0.0


HTML = Answer(b"<!doctype html><h1>Just a moment...</h1>", headers={"Content-Type": "text/html"})


def as_json(value: object, **how: object) -> Answer:
    return Answer(orjson.dumps(value), **how)


class ScriptedServer:
    """Calls `respond(path, body)` for every request; use as a context manager."""

    def __init__(self, respond: Callable[[str, bytes], Answer]) -> None:
        self.requests: list[tuple[str, bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # header and body are two writes

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.path, body))
                answer = respond(self.path, body)
                outer.stopping.wait(answer.delay)
                if answer.reset:
                    self.close_connection = True
                    return
                if "Date" in answer.headers:
                    self.send_response_only(answer.status)
                else:
                    self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if answer.cut:
                    self.close_connection = True
                self.wfile.write(
                    answer.body[: len(answer.body) // 2] if answer.cut else answer.body
                )

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> ScriptedServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
