"""The command line as its users meet it: a process, its output and its exit code."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from worlds import HISTORY, PATIENCE_S, small_world

from embedded_clickhouse import Endpoint
from ingest.sources.goldsky.settings import ARCHIVE_END
from pipeline.settings import PROJECT_DIR
from pipeline.verbs.cli import cli
from pipeline.warehouse.run import Run
from sandbox.server import SandboxServer

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def environment(clickhouse: Endpoint, database_prefix: str, tmp_path: Path) -> dict[str, str]:
    """Environment of a process on this test's own databases, upstreams nowhere, nothing from a .env file."""
    return os.environ | {
        "CLICKHOUSE_HOST": clickhouse.host,
        "CLICKHOUSE_PORT": str(clickhouse.port),
        "CLICKHOUSE_PASSWORD": clickhouse.password,
        "CLICKHOUSE_DATABASE": database_prefix,
        "DLT_PIPELINES_DIR": str(tmp_path / "dlt"),
        "POLYMARKET_GAMMA_URL": NOWHERE,
        "GOLDSKY_URL": NOWHERE,
        "POLYGON_RPC_URL": NOWHERE,
        "POLYMARKET_CLOB_URL": NOWHERE,
        "HTTP_GIVE_UP_S": "0",
    }


@pytest.fixture
def prepared_environment(environment: dict[str, str], run: Run) -> dict[str, str]:
    """The same with schema and models in place, because dbt takes 20 s of processor time."""
    return environment


@pytest.fixture
def upstream_environment(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """The same with a simulated Polymarket behind it."""
    with SandboxServer(small_world()) as upstream:
        yield (
            environment
            | upstream.urls.environment()
            | {
                "GOLDSKY_START": (ARCHIVE_END - HISTORY).isoformat(),
                "FILLS_LOOKBACK_S": str(int(HISTORY.total_seconds())),
                "POLYGON_CONFIRMATIONS": "0",
                "POLYGON_STALE_AFTER_S": "1000000000",
            }
        )


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), *arguments]


def call(
    env: dict[str, str], folder: Path, *arguments: str, given: str = ""
) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments),
        env=env,
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@contextmanager
def started(
    env: dict[str, str], folder: Path, *arguments: str, until: str
) -> Iterator[subprocess.Popen]:
    """A process of a verb that keeps running, once it has printed `until`."""
    with subprocess.Popen(
        command(*arguments),
        env=env,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if until in line:
                    break
            else:
                raise AssertionError(f"{arguments} ended: {''.join(lines)}")
            process.first_lines = "".join(lines)
            yield process
        finally:
            process.kill()


def test_help_names_every_verb(tmp_path: Path) -> None:
    answer = call(dict(os.environ), tmp_path, "--help")
    assert answer.returncode == 0
    for name, verb in cli.commands.items():
        assert not verb.hidden and name in answer.stdout
        assert verb.help, f"{name} has no help text"


VALUES = {
    "patterns": "x.parquet",
    "from_text": "2026-05-01",
    "to_text": "2026-06-01",
    "workers": "2",
    "slice_s": "60",
}


@pytest.mark.parametrize(
    "option",
    [each for each in cli.commands["backfill"].params if each.name not in ("cancel", "source")],
    ids=lambda option: option.opts[0],
)
def test_a_cancellation_refuses_what_it_would_ignore(option: click.Option) -> None:
    """Every other option of the verb, those that are added later included."""
    value = [] if option.is_flag else [VALUES[option.name]]
    answer = CliRunner().invoke(cli, ["backfill", "--cancel", option.opts[0], *value])
    assert answer.exit_code == 2
    assert f"--cancel does not go with {option.opts[0]}" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--help"], 0, "Commands:"),
        (["--version"], 0, "installed: "),
        (["test", "--help"], 0, "--select"),
        (["tset"], 2, "No such command 'tset'"),
        (["test", "--bogus"], 2, "No such option '--bogus'"),
        (["parse", "--project-dir", "nowhere"], 2, "nowhere"),
    ],
)
def test_dbt_says_what_dbt_says(
    environment: dict[str, str], tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    blocked = dict.fromkeys(
        ("HTTPS_PROXY", "https_proxy"), NOWHERE
    )  # --version asks for the latest
    answer = call(environment | blocked, tmp_path, "dbt", *arguments)
    assert answer.returncode == code, answer
    assert told in answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr


def test_help_of_dbt_needs_no_clickhouse(environment: dict[str, str], tmp_path: Path) -> None:
    answer = call(environment | {"CLICKHOUSE_PORT": "9"}, tmp_path, "dbt", "--help")
    assert (answer.returncode, answer.stderr) == (0, "")


def test_the_version_is_that_of_the_project() -> None:
    answer = CliRunner().invoke(cli, ["--version"])
    version = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"]["version"]
    assert (answer.exit_code, answer.stdout) == (0, f"polymarket-elt {version}\n")


def test_a_shell_completes_verbs() -> None:
    """By the variable that docs/usage.md names."""
    variable = "_RUN_PIPELINE_PY_COMPLETE"
    assert variable in (PROJECT_DIR / "docs/usage.md").read_text()
    asked = {variable: "bash_complete", "COMP_WORDS": "run_pipeline.py ba", "COMP_CWORD": "1"}
    answer = subprocess.run(command(), env=os.environ | asked, capture_output=True, text=True)
    assert answer.stdout.split() == ["plain,backfill", "plain,backup"]


def test_sql_prints_what_clickhouse_returns(environment: dict[str, str], tmp_path: Path) -> None:
    plain = call(environment, tmp_path, "sql", "select 1 as one, 'a\tb' as text")
    assert (plain.returncode, plain.stdout) == (0, "one\ttext\n1\ta\\tb\n")
    named = call(environment, tmp_path, "sql", "select 1 as one format JSONEachRow")
    assert json.loads(named.stdout) == {"one": 1}
    piped = call(environment, tmp_path, "sql", given="select 2 format CSV")
    assert piped.stdout == "2\n"


def test_sql_passes_on_clickhouses_own_message(environment: dict[str, str], tmp_path: Path) -> None:
    answer = call(environment, tmp_path, "sql", "select no_such_column")
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("Code: 47. DB::Exception: Unknown expression identifier")
    assert call(environment, tmp_path, "sql", given=" ").returncode == 2


def test_status_of_an_empty_server_says_what_to_do(
    environment: dict[str, str], tmp_path: Path
) -> None:
    answer = call(environment, tmp_path, "status")
    assert answer.returncode == 0
    assert "Nothing is loaded yet. Run `python run_pipeline.py`" in answer.stdout
    assert json.loads(call(environment, tmp_path, "status", "--json").stdout)["ready"] is False


def test_one_cycle_and_its_status(upstream_environment: dict[str, str], tmp_path: Path) -> None:
    env = upstream_environment
    answer = call(env, tmp_path, "doctor")
    assert answer.returncode == 0, answer.stdout
    assert answer.stdout.endswith("Everything is in order.\n")

    answer = call(env, tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "polygon: " in answer.stderr and "order_filled in" in answer.stderr

    status = json.loads(call(env, tmp_path, "status", "--json").stdout)
    assert status["ready"] and status["unsettled_loads"] == 0 and status["writer"] is None
    rows = {table["name"]: table["rows"] for table in status["tables"]}
    assert rows["trades"] == 400
    assert "trades" in call(env, tmp_path, "status").stdout

    info = subprocess.run(
        [Path(sys.executable).parent / "dlt", "pipeline", "--pipelines-dir", tmp_path / "dlt", "polymarket_polygon", "info"],
        capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE_S,
    )  # fmt: skip
    assert info.returncode == 0 and "order_filled_chain" in info.stdout, info.stdout + info.stderr


def test_dead_upstreams_are_one_line_and_exit_code_1(
    prepared_environment: dict[str, str], tmp_path: Path
) -> None:
    environment = prepared_environment
    answer = call(environment, tmp_path)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    last = answer.stderr.strip().splitlines()[-1]
    assert "gamma" in last and "polygon" in last and "127.0.0.1:9" in last

    answer = call(environment, tmp_path, "doctor")
    assert answer.returncode == 1
    assert "check POLYGON_RPC_URL and the network" in answer.stdout
    # Gamma, Goldsky and the CLOB; a node is named anyway.
    assert answer.stdout.count("127.0.0.1:9: ") == 3
    assert answer.stdout.count("Connection refused") == 4
    assert "ConnectionPool" not in answer.stdout + answer.stderr


def test_clickhouse_that_does_not_answer_is_one_line(
    environment: dict[str, str], tmp_path: Path
) -> None:
    answer = call(environment | {"CLICKHOUSE_PORT": "9"}, tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.startswith(
        "ClickHouse at 127.0.0.1:9 does not answer (Connection refused); is it up"
    )
    assert answer.stderr.count("\n") == 1


def test_a_database_name_that_is_none_is_refused(
    environment: dict[str, str], tmp_path: Path
) -> None:
    answer = call(environment | {"CLICKHOUSE_DATABASE": "x; drop database y"}, tmp_path, "status")
    assert answer.returncode == 2
    assert answer.stderr.startswith("CLICKHOUSE_DATABASE: ")


def test_demo_data_are_for_reading(tmp_path: Path) -> None:
    answer = call(dict(os.environ), tmp_path, "--demo", "loop")
    assert answer.returncode == 2
    assert "real data must not mix with the demo's" in answer.stderr


def test_clickhouse_stays_up_until_stopped(environment: dict[str, str], tmp_path: Path) -> None:
    env = (
        environment
        | {"CLICKHOUSE_HOST": "", "CLICKHOUSE_LOCAL_PORT": "0"}
        | {
            "CLICKHOUSE_LOCAL_PATH": str(tmp_path / "clickhouse"),
            "CLICKHOUSE_LOCAL_FILES": str(tmp_path / "files"),
        }
    )
    with started(env, tmp_path, "clickhouse", until="until Ctrl-C") as server:
        url = server.first_lines.split("at ")[1].split(" ")[0]
        assert urllib.request.urlopen(f"{url}ping", timeout=PATIENCE_S).read() == b"Ok.\n"
        second = call(env, tmp_path, "clickhouse")
        assert second.returncode == 1
        assert f"in use by process {server.pid}" in second.stderr
        assert call(env, tmp_path, "sql", "select 1").stdout == "1\n1\n"  # shares it
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=PATIENCE_S) == 130


def test_verbs_that_load_nothing_wait_for_no_import_of_dlt_or_dbt() -> None:
    modules = "pipeline.verbs.report, pipeline.verbs.status, pipeline.verbs.query, pipeline.derive.rebuild"
    code = f"import sys, {modules}; print(sorted(sys.modules.keys() & {{'dlt', 'dbt', 'pandas'}}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=PROJECT_DIR, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stdout == "[]\n", done.stderr


def test_status_names_the_file_of_the_password_and_not_the_password(
    environment: dict[str, str], tmp_path: Path
) -> None:
    local = {"CLICKHOUSE_LOCAL_PATH": str(tmp_path / "c"), "CLICKHOUSE_LOCAL_PORT": "0"}
    env = environment | {"CLICKHOUSE_HOST": "", "CLICKHOUSE_PASSWORD": ""} | local
    answers = [call(env, tmp_path, "status", *options) for options in ((), ("--json",))]
    kept = tmp_path / "c" / "default.password"
    assert f"password in {kept}" in answers[0].stdout
    assert json.loads(answers[1].stdout)["password_file"] == str(kept)
    assert all(kept.read_text().strip() not in answer.stdout for answer in answers)


def test_the_sandbox_says_how_to_use_it(environment: dict[str, str], tmp_path: Path) -> None:
    with started(
        environment, tmp_path, "sandbox", "--port", "0", "--matches", "50", "--block-time", "0.2", until="POLYGON_RPC_URL"
    ) as server:  # fmt: skip
        exports = [line.split() for line in server.first_lines.splitlines() if "export" in line]
        urls = dict(words[1].split("=", 1) for words in exports)
        assert set(urls) == {"POLYMARKET_GAMMA_URL", "GOLDSKY_URL", "POLYGON_RPC_URL"}
        heads = []
        for _ in range(2):
            ask = json.dumps(
                {"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []}
            ).encode()
            request = urllib.request.Request(
                urls["POLYGON_RPC_URL"], ask, {"Content-Type": "application/json"}
            )
            heads.append(
                int(json.load(urllib.request.urlopen(request, timeout=PATIENCE_S))["result"], 16)
            )
            time.sleep(1)
        assert heads[1] > heads[0]  # it is alive
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=PATIENCE_S) == 143


@pytest.mark.parametrize("arguments", [["sql", "select 1"], ["clickhouse"], ["sandbox", "--port"]])
def test_the_owner_of_a_port_that_is_taken_is_named(
    environment: dict[str, str], tmp_path: Path, arguments: list[str]
) -> None:
    """By its process, name and folder, and what to set is said once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = environment | {
            "CLICKHOUSE_HOST": "",
            "CLICKHOUSE_LOCAL_PORT": port,
            "CLICKHOUSE_LOCAL_PATH": str(tmp_path / "clickhouse"),
            "CLICKHOUSE_LOCAL_FILES": str(tmp_path / "files"),
        }
        is_sandbox = arguments[-1] == "--port"
        answer = call(env, tmp_path, *arguments, *([port] if is_sandbox else []))
    assert answer.returncode == 1
    assert f"port {port} is taken by process {os.getpid()} (" in answer.stderr
    assert f"in {Path.cwd()})" in answer.stderr
    assert answer.stderr.count("port") - answer.stderr.count("--port") == 1
    assert answer.stderr.count("\n") == 1


def test_a_syntax_error_is_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    answer = call(environment, tmp_path, "sql", "selec 1")
    assert answer.returncode == 1
    assert answer.stderr.startswith("Code: 62. DB::Exception: Syntax error: failed at position 1")
    assert answer.stderr.count("\n") == 1
    assert len(answer.stderr) < 200


@pytest.mark.parametrize(
    "arguments", [["sql", "select 1"], ["status"], ["status", "--json"], ["doctor"]]
)
@pytest.mark.parametrize("output", [">/dev/full", ">&-", "| true"])
def test_an_output_that_takes_nothing_is_no_traceback(
    environment: dict[str, str], tmp_path: Path, arguments: list[str], output: str
) -> None:
    """A full disk, a closed output and a closed pipe."""
    line = f"{shlex.join(command(*arguments))} {output}"
    answer = subprocess.run(
        line, shell=True, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S
    )  # fmt: skip
    assert "Traceback" not in answer.stderr and "Exception ignored" not in answer.stderr
    assert answer.stderr.count("\n") <= 1
    if output == ">/dev/full":
        told = "the output cannot be written: No space left on device\n"
        assert (answer.returncode, answer.stderr) == (1, told)
    elif output == ">&-" and arguments[0] == "sql":
        assert answer.returncode == 2 and "standard output is closed" in answer.stderr


@pytest.mark.parametrize("folder", ["/dev/full", "/proc/dlt", "taken/dlt"])
def test_a_dlt_folder_that_cannot_be_written_is_one_line(
    prepared_environment: dict[str, str], tmp_path: Path, folder: str
) -> None:
    """Whatever the operating system says of it."""
    (tmp_path / "taken").write_text("")
    answer = call(prepared_environment | {"DLT_PIPELINES_DIR": str(tmp_path / folder)}, tmp_path)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    last = answer.stderr.splitlines()[-1]
    assert str(tmp_path / folder) in last and "cannot be written: " in last


NUMBERS = [
    (name, option.opts[0], value)
    for name in ("sandbox", "demo", "backfill")
    for option in cli.commands[name].params
    if isinstance(option.type, click.IntRange | click.FloatRange)
    for value in ("-1", "nan", "none")
]


@pytest.mark.parametrize(("name", "option", "value"), NUMBERS)
def test_numbers_that_make_no_sense_are_refused(name: str, option: str, value: str) -> None:
    answer = CliRunner().invoke(cli, [name, option, value])
    assert answer.exit_code == 2
    assert f"Invalid value for '{option}'" in answer.stderr


def test_every_option_that_is_a_number_has_a_range() -> None:
    """But for seeds, of which any will do."""
    plain = {
        f"{name} {option.opts[0]}"
        for name, each in cli.commands.items()
        for option in each.params
        if option.type in (click.INT, click.FLOAT)
    }
    assert plain == {"sandbox --seed", "demo --seed"}
    assert CliRunner().invoke(cli, ["sandbox", "--port", "99999"]).exit_code == 2
