"""Secrets stay where they were set: nothing that is printed, logged or written down repeats a password or a key."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from worlds import PATIENCE_S

from embedded_clickhouse import Access, Endpoint, running
from ingest.errors import redact
from pipeline.settings import PROJECT_DIR, Settings
from sandbox.server import AppServer

PASSWORD = "pw-7Hq2Zk9LmX4"
WRONG_PASSWORD = "pw-wrong-5Tn8Rb1Vc"
LOGIN = "login-3Gd6Ws0Yp"
PATH_KEY = "k3yA8c2d9E1f7G5h3J6k0"
RPC_KEY = "Rpc9x8Y7z6W5v4U3t2S1r0"
QUERY_KEY = "q9key"
SECRETS = (PASSWORD, WRONG_PASSWORD, LOGIN, PATH_KEY, RPC_KEY, QUERY_KEY)


async def repeating(scope: Scope, receive: Receive, send: Send) -> None:
    """An upstream that refuses and quotes the whole request while it does."""
    request = Request(scope, receive)
    text = f"not allowed: {request.url} {request.headers.get('authorization')}"
    await PlainTextResponse(text, 403)(scope, receive, send)


@pytest.fixture(scope="module")
def clickhouse_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clickhouse")


@pytest.fixture(scope="module")
def guarded(clickhouse_folder: Path) -> Iterator[Endpoint]:
    """A ClickHouse that asks for a password."""
    with running(clickhouse_folder, 0, access=Access(PASSWORD)) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with AppServer(repeating) as server:
        yield server.port


def environment(guarded: Endpoint, port: int, folder: Path) -> dict[str, str]:
    """Settings full of secrets; what dbt and dlt write goes to the folder."""
    unset = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in unset} | {
        "CLICKHOUSE_HOST": guarded.host,
        "CLICKHOUSE_PORT": str(guarded.port),
        "CLICKHOUSE_PASSWORD": PASSWORD,
        "POLYMARKET_GAMMA_URL": f"http://service:{LOGIN}@127.0.0.1:{port}/{PATH_KEY}",
        "GOLDSKY_URL": f"http://127.0.0.1:{port}/{PATH_KEY}/gn",
        "GOLDSKY_START": "2026-04-01",
        "POLYGON_RPC_URL": f"http://127.0.0.1:{port}/v2/{RPC_KEY}?apikey={QUERY_KEY}",
        "POLYMARKET_CLOB_URL": f"http://127.0.0.1:{port}/{PATH_KEY}",
        "POLYMARKET_DATA_URL": f"http://127.0.0.1:{port}/{PATH_KEY}",
        "DLT_PIPELINES_DIR": str(folder / "dlt"),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
        "HTTP_GIVE_UP_S": "0",
    }


def call(env: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), *arguments],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def leaked(text: str | bytes) -> list[str]:
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    return [secret for secret in SECRETS if secret in text]


def test_no_secret_is_printed_or_written_down(
    guarded: Endpoint, port: int, tmp_path: Path, clickhouse_folder: Path
) -> None:
    env = environment(guarded, port, tmp_path)
    nowhere = {
        name: value.replace(f":{port}", ":9")
        for name, value in env.items()
        if name.endswith("_URL")
    }
    calls = {  # what is run, and what it must say to have failed as meant
        "refused by every upstream": ((), {}, 1, "not allowed: "),
        "the same as JSON": ((), {"LOG_JSON": "true"}, 1, "403"),
        "doctor": (("doctor",), {}, 1, "403"),
        "no upstream": ((), nowhere, 1, "cannot connect"),
        "doctor without upstreams": (("doctor",), nowhere, 1, "check POLYGON_RPC_URL"),
        "wrong password": (("status",), {"CLICKHOUSE_PASSWORD": WRONG_PASSWORD}, 1, "refuses"),
        "no such table": (("sql", "select * from nothing"), {}, 1, "nothing"),
        "dbt": (("dbt", "debug", "--log-level-file", "debug"), {}, 0, "host"),
        "a URL that is none": (("status",), {"GOLDSKY_URL": f"ftp://{PATH_KEY}"}, 2, "GOLDSKY_URL"),
    }
    for name, (arguments, changes, code, words) in calls.items():
        answer = call(env | changes, tmp_path, *arguments)
        printed = answer.stdout + answer.stderr
        assert answer.returncode == code, (name, printed)
        assert words in printed, (name, printed)
        assert leaked(printed) == [], name
    files = [path for folder in (tmp_path, clickhouse_folder) for path in folder.rglob("*")]
    written = [path for path in files if path.is_file()]
    assert {path.name for path in written} >= {
        "trace.pickle",
        "dbt.log",
        "manifest.json",
        "server.log",
    }
    assert {str(path): found for path in written if (found := leaked(content(path)))} == {}


def content(path: Path) -> bytes:
    """What a file holds; nothing if a merge of ClickHouse has removed it meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def test_the_password_is_not_on_the_command_line(guarded: Endpoint) -> None:
    assert leaked(Path(f"/proc/{guarded.pid}/cmdline").read_bytes()) == []


@pytest.mark.parametrize(
    ("url", "text", "shown"),
    [
        ("http://a/v2/" + RPC_KEY, f"bad key {RPC_KEY}.", "bad key ***."),
        ("http://a/?api_key=q9+key", "q9 key and q9%20key", "*** and ***"),
        (f"http://me:{LOGIN}@a/", f"me:{LOGIN} or {LOGIN}", "*** or ***"),
        ("http://a/markets/keyset?limit=5", "limit 5 of markets", "limit 5 of markets"),
        ("http://a/", "nothing to hide", "nothing to hide"),
    ],
)
def test_what_quotes_a_secret_is_cut(url: str, text: str, shown: str) -> None:
    assert redact(text, url) == shown
