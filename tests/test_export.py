"""`export`: files that readers take as they are, whole or not there, and of the rows that ClickHouse has."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Answer, ScriptedServer
from test_cli import call, command
from worlds import PATIENCE_S, all_fills, copy_rows, land, land_gamma, settle_all, small_world

from embedded_clickhouse.compression import zstd
from pipeline.errors import (
    ClickHouseUnavailable,
    ExportError,
    PipelineError,
    QueryFailed,
    UsageError,
)
from pipeline.export.export import Exported, Wanted, export
from pipeline.export.formats import CsvCounter
from pipeline.export.selection import checked_condition
from pipeline.export.tables import find_table, promised
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.warehouse.run import Run, open_run

WORLD = small_world(days=1.5)
DOCUMENT = (PROJECT_DIR / "docs/export.md").read_text()


def fill(run: Run) -> None:
    """Markets and all fills but those of the last day."""
    land_gamma(run, WORLD)
    land(run, fills_of(lambda day: day < LAST_DAY))
    settle_all(run)


def fills_of(is_wanted: Callable[[str], bool]) -> list[Any]:
    return [fill for fill in all_fills(WORLD) if is_wanted(day_of(fill.timestamp))]


def day_of(timestamp: int) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d}"


DAYS = sorted({day_of(fill.timestamp) for fill in all_fills(WORLD)})
LAST_DAY = DAYS[-1]


@pytest.fixture(scope="module")
def filled(settled_by: Callable[[Callable[[Run], None]], Settings]) -> Settings:
    return settled_by(fill)


@pytest.fixture
def loaded(filled: Settings) -> Iterator[Run]:
    """A run on databases that every test shares, for reading."""
    with open_run(filled) as run:
        yield run


@pytest.fixture
def own(run: Run, filled: Settings) -> Run:
    """A run on databases of the test's own, filled."""
    copy_rows(run, filled)
    return run


def environment(run: Run) -> dict[str, str]:
    settings = run.settings
    return os.environ | {
        "CLICKHOUSE_HOST": settings.clickhouse_host,
        "CLICKHOUSE_PORT": str(settings.clickhouse_port),
        "CLICKHOUSE_PASSWORD": settings.clickhouse_password.get_secret_value(),
        "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        "DLT_PIPELINES_DIR": str(settings.dlt_pipelines_dir),
    }


def files_of(folder: Path) -> list[str]:
    """Every file below a folder, notes aside."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if not str(path).endswith(".export.json"))


def rows_in(run: Run, table: str, columns: str = "*", condition: str = "1") -> list[tuple]:
    database = run.settings.clickhouse_database
    return run.client.query(
        f"select {columns} from {database}.{table} where {condition}"
    ).result_rows


def read(folder: Path) -> pa.Table:
    return ds.dataset(folder, partitioning="hive").to_table()


def plain(values: tuple) -> tuple:
    """Values as both sides may spell them: times with their zone, lists as tuples."""
    return tuple(
        each.replace(tzinfo=UTC)
        if isinstance(each, datetime)
        else tuple(each)
        if isinstance(each, list)
        else each
        for each in values
    )


@pytest.mark.parametrize("name", sorted(promised()))
def test_every_promised_table_is_exported_row_by_row(
    loaded: Run, name: str, tmp_path: Path
) -> None:
    done = export(loaded, Wanted(name, tmp_path))
    expected = rows_in(loaded, name)
    assert done.rows == len(expected)
    if not expected:
        assert not list(tmp_path.iterdir())
        return
    columns = list(find_table(loaded, name).types)
    exported = read(tmp_path / name).select(columns).to_pylist()
    if name == "trending_markets":  # counts back from now
        columns.remove("as_of")
        return
    assert sorted(map(repr, (plain(tuple(row.values())) for row in exported))) == sorted(
        map(repr, map(plain, expected))
    )


def test_tables_of_the_readme_can_be_exported() -> None:
    section = (PROJECT_DIR / "README.md").read_text().split("## What you get")[1].split("\n## ")[0]
    cells = "\n".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    assert set(re.findall(r"`([a-z0-9_]+)`", cells)) <= set(promised())


KINDS = re.compile(
    r"(Array|Nullable|LowCardinality)\((.+)\)|String|Bool|Float64|U?Int(8|16|32|64)|Date"
    r"|DateTime\('UTC'\)|DateTime64\(6, 'UTC'\)|Decimal\(\d+, \d+\)"
)


def test_every_type_is_one_that_the_document_names(loaded: Run) -> None:
    """Others, such as 256-bit numbers, would be bytes in Parquet."""
    for name in promised():
        for kind in find_table(loaded, name).types.values():
            while match := KINDS.fullmatch(kind):
                kind = match[2]
                if kind is None:
                    break
            assert kind is None, (name, kind)


def test_tables_whose_key_has_a_time_say_which(loaded: Run) -> None:
    for name, declared in promised().items():
        types = find_table(loaded, name).types
        times = [column for column in declared.key if types[column].startswith("Date")]
        assert times == ([declared.time] if declared.time and declared.key else []), name
        assert not declared.time or types[declared.time].startswith("Date"), name


def test_a_process_exports_days_and_writes_again_what_changed(own: Run, tmp_path: Path) -> None:
    """A day that comes, a day that changes, and one that goes; the others are left alone."""
    env, out = environment(own), tmp_path / "exports"

    def exported(*options: str) -> str:
        answer = call(env, tmp_path, "export", "trades", "--out", str(out), *options)
        assert (answer.returncode, answer.stderr) == (0, ""), answer.stderr
        return answer.stdout

    path = out / "trades"
    days = DAYS[:-1]
    assert exported().startswith(f"{path}: {len(days)} files written (")
    assert files_of(out) == [f"trades/date={day}/trades.parquet" for day in days]
    table = pq.read_table(path / f"date={days[0]}/trades.parquet")
    assert table.schema.field("filled_at").type == pa.timestamp("ms", tz="UTC")
    assert table.schema.field("usd").type == pa.decimal128(38, 6)
    before = {file: (out / file).stat().st_mtime_ns for file in files_of(out)}
    assert exported() == f"{path}: {len(days)} files as they were\n"
    assert exported("--from", "2020-01-01", "--to", "2020-02-01") == (
        f"{path}: 0 rows, so nothing was written\n"
    )

    land(own, fills_of(lambda day: day == LAST_DAY))
    land(own, fills_of(lambda day: day == days[0]), is_deleted=1)
    land(own, fills_of(lambda day: day == days[1])[:40], is_deleted=1)
    settle_all(own)
    said = exported()
    assert "2 files written" in said and "1 file removed, whose rows are gone" in said
    kept = days[2:]
    assert files_of(out) == [f"trades/date={day}/trades.parquet" for day in (*days[1:], LAST_DAY)]
    after = {file: (out / file).stat().st_mtime_ns for file in files_of(out)}
    assert {file for file, at in after.items() if before.get(file) == at} == {
        f"trades/date={day}/trades.parquet" for day in kept
    }
    assert read(path).num_rows == len(rows_in(own, "trades"))


def test_a_market_that_lands_later_changes_files_of_before(run: Run, tmp_path: Path) -> None:
    land(run, all_fills(WORLD))
    settle_all(run)
    export(run, Wanted("trades", tmp_path, columns="trade_id,market_id"))
    assert set(read(tmp_path / "trades")["market_id"].to_pylist()) == {""}
    land_gamma(run, WORLD)
    done = export(run, Wanted("trades", tmp_path, columns="trade_id,market_id"))
    assert (done.written, done.same) == (len(DAYS), 0)
    assert len(set(read(tmp_path / "trades")["market_id"].to_pylist())) > 10


def test_text_is_as_documented(loaded: Run, tmp_path: Path) -> None:
    """Compressed or not; with lines and quotes in fields, lists, nulls, times in UTC."""
    columns = "market_id,description,outcomes,volume_usd,best_bid,created_at"
    expected = rows_in(loaded, "markets", columns, "1 order by market_id")
    texts = {}
    for form in ("csv", "jsonl"):
        for compression in ("none", "gz", "zst"):
            out = tmp_path / form / compression
            export(
                loaded,
                Wanted("markets", out, format=form, columns=columns, compression=compression),
            )
            suffix = "" if compression == "none" else f".{compression}"
            content = (out / f"markets/markets.{form}{suffix}").read_bytes()
            unpack = {"none": bytes, "gz": gzip.decompress, "zst": zstd.decompress}[compression]
            texts.setdefault(form, set()).add(unpack(content).decode())
    assert all(len(each) == 1 for each in texts.values())
    told = list(csv.DictReader(io.StringIO(texts["csv"].pop(), newline="")))
    lines = [json.loads(line) for line in texts["jsonl"].pop().splitlines()]
    assert any("\n" in row[1] and '"' in row[1] for row in expected)
    for row, fields, line in zip(expected, told, lines, strict=True):
        market_id, description, outcomes, volume, bid, created = row
        assert (fields["market_id"], fields["description"]) == (market_id, description)
        assert json.loads(fields["outcomes"]) == line["outcomes"] == list(outcomes)
        assert line["volume_usd"] is None or Decimal(line["volume_usd"]) == volume
        assert (float(fields["best_bid"]) if fields["best_bid"] else None) == bid
        assert line["created_at"] == fields["created_at"]
        assert fields["created_at"].endswith("Z")
        assert datetime.fromisoformat(fields["created_at"]) == created.replace(tzinfo=UTC)


def test_decimals_may_be_doubles(loaded: Run, tmp_path: Path) -> None:
    done = export(loaded, Wanted("trades", tmp_path / "p", as_doubles=True, by="month"))
    table = read(tmp_path / "p/trades")
    assert table.schema.field("usd").type == table.schema.field("price").type == pa.float64()
    assert done.written == len({day[:7] for day in DAYS[:-1]})
    export(loaded, Wanted("markets", tmp_path / "m", as_doubles=True))
    prices = read(tmp_path / "m/markets").schema.field("outcome_prices").type
    assert prices.value_type == pa.float64()


def test_rows_can_be_chosen(loaded: Run, tmp_path: Path) -> None:
    token, market = rows_in(loaded, "trades", "token_id, market_id", "market_id != '' limit 1")[0]
    wanted = Wanted("trades", tmp_path, columns="usd,filled_at", where="side = 'BUY' -- and so on")
    for column, value in (("token_id", token), ("market_id", market)):
        export(loaded, replace(wanted, out=tmp_path / column, equal=((column, value),)))
        table = read(tmp_path / column / "trades")
        expected = rows_in(loaded, "trades", "usd", f"side = 'BUY' and {column} = '{value}'")
        assert table.column_names == ["usd", "filled_at", "date"]
        assert sorted(table["usd"].to_pylist()) == sorted(usd for (usd,) in expected)
        assert expected


def test_rows_are_in_the_order_of_time_and_key(loaded: Run, tmp_path: Path) -> None:
    export(loaded, Wanted("trades", tmp_path, by="month"))
    for file in files_of(tmp_path):
        table = pq.read_table(tmp_path / file)
        keys = ("filled_at", "tx_hash", "log_index", "order_hash")
        rows = list(zip(*(table[key].to_pylist() for key in keys), strict=True))
        assert rows == sorted(rows)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"table": "trade"}, "there is no table trade; is trades"),
        ({"table": "order_fills_store"}, "there is no table order_fills_store; is order_fills"),
        ({"columns": "usd,usdd"}, "--columns: trades has no column usdd; is usd"),
        ({"columns": "usd,usd"}, "--columns: usd is named twice"),
        ({"columns": " , "}, "--columns: name one at least"),
        ({"compression": "gz"}, "--compress does not go with --format parquet"),
        ({"start": datetime(2026, 6, 1, 12, tzinfo=UTC)}, "--from 2026-06-01 12:00:00 cuts a day"),
        ({"by": "month", "end": datetime(2026, 6, 2, tzinfo=UTC)}, "--to 2026-06-02 cuts a month"),
        ({"table": "markets", "by": "day"}, "markets has no time to cut it by, so --by"),
        ({"table": "markets", "equal": (("token_id", "1"),)}, "--token: markets has no column"),
        ({"out": Path(__file__)}, "is a file: name a folder"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    loaded: Run, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(told)) as refusal:
        export(loaded, replace(Wanted("trades", tmp_path / "out"), **changes))
    assert refusal.value.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "condition",
    [
        "wallet in (select wallet from trades)",
        "1 union all select 1",
        "1) or (1",
        "1 order by 1",
        "1 limit 1",
        "1 settings max_threads = 1",
        "file('/etc/passwd') != ''",
        "exists (select * from file('x'))",
        "1 format CSV",
        "1; drop table trades",
        "0 in system.one",
        "'x' not in trades or side = 'BUY'",
        "side = 'BUY' and (1, wallet) global in system.one",
        "(0 as usd) = 0",
        "",
    ],
)
def test_conditions_read_nothing_but_the_table(loaded: Run, condition: str) -> None:
    with pytest.raises(UsageError, match=r"^--where: ") as refusal:
        checked_condition(loaded.client, condition)
    assert "\n" not in str(refusal.value)


def test_an_unknown_column_of_a_condition_is_told(loaded: Run, tmp_path: Path) -> None:
    answer = call(environment(loaded), tmp_path, "export", "trades", "--where", "usdd > 1", "--out", "x")  # fmt: skip
    assert answer.returncode == 1
    assert "usdd" in answer.stderr and answer.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_folder_holds_files_of_one_set_of_options(loaded: Run, tmp_path: Path) -> None:
    days = Wanted("trades", tmp_path)
    export(loaded, days)
    months = replace(days, by="month", format="csv")
    with pytest.raises(ExportError, match=r"other options \(by, format\): name another folder"):
        export(loaded, months)
    export(loaded, replace(months, overwrite=True))
    months_named = sorted({day[:7] for day in DAYS[:-1]})
    assert files_of(tmp_path) == [f"trades/month={each}/trades.csv" for each in months_named]
    assert sorted(path.name for path in (tmp_path / "trades").iterdir()) == [
        f"month={each}" for each in months_named
    ]

    (tmp_path / "other/trades").mkdir(parents=True)
    (tmp_path / "other/trades/mine.txt").write_text("")
    with pytest.raises(ExportError, match="holds files that no export has made"):
        export(loaded, replace(days, out=tmp_path / "other", overwrite=True))


def test_a_file_that_was_changed_or_removed_is_written_again(loaded: Run, tmp_path: Path) -> None:
    wanted = Wanted("trades", tmp_path)
    export(loaded, wanted)
    first, second, *_ = files_of(tmp_path)
    (tmp_path / first).unlink()
    (tmp_path / second).write_bytes(b"half")
    done = export(loaded, wanted)
    assert (done.written, done.same) == (2, len(DAYS) - 3)
    assert read(tmp_path / "trades").num_rows == len(rows_in(loaded, "trades"))


def test_a_damaged_note_is_one_line(loaded: Run, tmp_path: Path) -> None:
    export(loaded, Wanted("markets", tmp_path))
    note = tmp_path / "markets.export.json"
    for content in ("{", "[]", '{"options": {}, "files": {"../x": {"rows": 1, "bytes": 1, "content": 1}}}'):  # fmt: skip
        note.write_text(content)
        with pytest.raises(ExportError, match="is damaged, or of a later version"):
            export(loaded, Wanted("markets", tmp_path, overwrite=True))


class Cut:
    """ClickHouse behind a server that spoils the answers with rows.

    Args:
        spoil: makes an answer of the true body and its headers.
    """

    def __init__(self, run: Run, spoil: Callable[[bytes, dict[str, str]], Answer]) -> None:
        settings = run.settings
        target = f"http://{settings.clickhouse_host}:{settings.clickhouse_port}"
        names = ("X-ClickHouse-User", "X-ClickHouse-Key")

        def respond(path: str, body: bytes) -> Answer:
            key = settings.clickhouse_password.get_secret_value()
            headers = dict(zip(names, (settings.clickhouse_user, key), strict=True))
            answer = requests.post(target + path, data=body, headers=headers)
            kept = {k: v for k, v in answer.headers.items() if k.startswith("X-ClickHouse")}
            if b" format " not in body:
                return Answer(answer.content, answer.status_code, kept)
            return spoil(answer.content, kept)

        self.server = ScriptedServer(respond)


def half_and_a_message(body: bytes, headers: dict[str, str]) -> Answer:
    """As servers did that said what went wrong at the end of a body that looked whole."""
    return Answer(body[: len(body) // 2] + b"\nCode: 241. DB::Exception: memory", headers=headers)


def without_the_last_line(body: bytes, headers: dict[str, str]) -> Answer:
    return Answer(body[: body.rstrip(b"\n").rindex(b"\n") + 1], headers=headers)


def cut(body: bytes, headers: dict[str, str]) -> Answer:
    return Answer(body, headers=headers, cut=True)


def hung_up(body: bytes, headers: dict[str, str]) -> Answer:
    return Answer(reset=True)


def failed(body: bytes, headers: dict[str, str]) -> Answer:
    return Answer(b"Code: 241. DB::Exception: memory\nmore", 500, headers)


def without_a_summary(body: bytes, headers: dict[str, str]) -> Answer:
    """As a proxy may pass it on."""
    return Answer(body)


@pytest.mark.parametrize(
    ("form", "spoil", "error", "told"),
    [
        ("parquet", half_and_a_message, ExportError, "not whole"),
        ("parquet", cut, ClickHouseUnavailable, "broke off in the middle"),
        ("parquet", hung_up, ClickHouseUnavailable, "does not answer"),
        ("parquet", failed, QueryFailed, "ClickHouse failed: Code: 241. DB::Exception: memory"),
        ("csv", without_the_last_line, ExportError, "have arrived"),
        ("csv", half_and_a_message, ExportError, "have arrived"),
        ("jsonl", without_the_last_line, ExportError, "have arrived"),
        ("csv", without_a_summary, QueryFailed, "cannot be checked: use --format parquet"),
        ("jsonl", cut, ClickHouseUnavailable, "broke off in the middle"),
    ],
)
def test_an_answer_that_is_not_whole_makes_no_file(
    loaded: Run,
    tmp_path: Path,
    form: str,
    spoil: Callable,
    error: type[PipelineError],
    told: str,
) -> None:
    wanted = Wanted("trades", tmp_path, format=form)
    export(loaded, replace(wanted, end=datetime.fromisoformat(f"{DAYS[1]}T00:00:00Z")))
    first = files_of(tmp_path)
    with Cut(loaded, spoil).server as server:
        port = int(server.url.rpartition(":")[2])
        settings = loaded.settings.model_copy(update={"clickhouse_port": port})
        with open_run(settings) as run, pytest.raises(error, match=told) as failure:
            export(run, wanted)
    assert "\n" not in str(failure.value) and failure.value.exit_code == 1
    assert files_of(tmp_path) == first  # no draft is left either
    done = export(loaded, wanted)
    assert (done.same, done.written) == (1, len(DAYS) - 2)


def test_a_full_disk_is_one_line(loaded: Run, tmp_path: Path) -> None:
    answer = subprocess.run(
        command("export", "order_fills", "--by", "month", "--out", str(tmp_path / "out")),
        env=environment(loaded), capture_output=True, text=True, timeout=PATIENCE_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY)),
    )  # fmt: skip
    assert answer.returncode == 1
    assert "cannot be written: File too large; make room" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert files_of(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_one_line(loaded: Run) -> None:
    with pytest.raises(ExportError, match=r"^/proc/out.* cannot be written: .*; make room, or"):
        export(loaded, Wanted("trades", Path("/proc/out")))


def test_an_empty_server_has_nothing_to_export(
    clickhouse: Any, tmp_path: Path, loaded: Run
) -> None:
    env = environment(loaded) | {"CLICKHOUSE_DATABASE": "nobody_made_it"}
    answer = call(env, tmp_path, "export", "trades", "--out", "x")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "nothing to export: no run has made the databases yet\n"


def test_a_kill_at_any_moment_leaves_files_that_are_whole(loaded: Run, tmp_path: Path) -> None:
    """Killed as soon as another file is being written, again and again, until one export gets to its end."""
    out, env, kills = tmp_path / "out", environment(loaded), 0
    draft = out / ".ohlcv_1h.partial"
    arguments = command("export", "ohlcv_1h", "--out", str(out))
    for patience in (0, 0.05, 0.1, 60):
        process = subprocess.Popen(arguments, env=env, stdout=subprocess.DEVNULL)
        while process.poll() is None and not draft.exists():
            time.sleep(0.001)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
        for file in (out / "ohlcv_1h").rglob("*.parquet"):
            pq.read_table(file)
    assert kills and process.returncode == 0
    assert not draft.exists()
    assert read(out / "ohlcv_1h").num_rows == len(rows_in(loaded, "ohlcv_1h"))


def test_a_stopped_export_leaves_no_draft(loaded: Run, tmp_path: Path) -> None:
    def slow(body: bytes, headers: dict[str, str]) -> Answer:
        return Answer(body, headers=headers, delay=PATIENCE_S)

    with Cut(loaded, slow).server as server:
        env = environment(loaded) | {"CLICKHOUSE_PORT": server.url.rpartition(":")[2]}
        process = subprocess.Popen(
            command("export", "trades", "--out", str(tmp_path)), env=env, stderr=subprocess.PIPE
        )
        while process.poll() is None and not (tmp_path / ".trades.partial").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=PATIENCE_S)[1] == b"stopped by SIGTERM\n"
    assert process.returncode == 143
    assert files_of(tmp_path) == []


def test_one_export_at_a_time_writes_into_a_folder(loaded: Run, tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def slow(body: bytes, headers: dict[str, str]) -> Answer:
        reached.set()
        go_on.wait(PATIENCE_S)
        return Answer(body, headers=headers)

    with Cut(loaded, slow).server as server:
        port = int(server.url.rpartition(":")[2])
        settings = loaded.settings.model_copy(update={"clickhouse_port": port})
        with open_run(settings) as run:
            first = threading.Thread(target=export, args=(run, Wanted("trades", tmp_path)))
            first.start()
            assert reached.wait(PATIENCE_S)
            with pytest.raises(ExportError, match="another export writes into"):
                export(loaded, Wanted("trades", tmp_path))
            export(loaded, Wanted("markets", tmp_path))  # another table
            go_on.set()
            first.join()
    assert export(loaded, Wanted("trades", tmp_path)).same == len(DAYS) - 1


def test_beside_a_loop_every_file_is_of_one_moment(run: Run, tmp_path: Path) -> None:
    """Each load has both legs of its matches, so trades without their fills, or rows twice, would show."""
    fills = all_fills(WORLD)
    done: list[Exported] = []
    land_gamma(run, WORLD)
    land(run, fills[:300])
    settle_all(run)
    stop = threading.Event()

    def again_and_again() -> None:
        while not stop.is_set():
            done.append(export(run, Wanted("trades", tmp_path)))
            for file in (tmp_path / "trades").rglob("*.parquet"):
                ids = pq.read_table(file)["trade_id"].to_pylist()
                assert len(set(ids)) == len(ids) > 0

    reader = threading.Thread(target=again_and_again)
    reader.start()
    for first in range(300, len(fills), 300):
        land(run, fills[first : first + 300])
        settle_all(run)
    stop.set()
    reader.join()
    export(run, Wanted("trades", tmp_path))
    assert sum(each.written for each in done) > 1
    exported = read(tmp_path / "trades")["trade_id"].to_pylist()
    assert sorted(exported) == sorted(id for (id,) in rows_in(run, "trades", "trade_id"))
    assert export(run, Wanted("trades", tmp_path)).written == 0


def test_loads_that_are_not_settled_are_told(own: Run, tmp_path: Path) -> None:
    land(own, fills_of(lambda day: day == LAST_DAY))
    answer = call(environment(own), tmp_path, "export", "trades", "--out", "out")
    assert answer.returncode == 0
    assert answer.stdout.endswith("1 load is not settled yet: export again to have what came\n")


def test_the_readers_of_the_document_read_it(
    loaded: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for table in ("trades", "markets"):
        export(loaded, Wanted(table, tmp_path / "exports"))
    snippets = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len(snippets) == 3
    for snippet in snippets:
        pytest.importorskip(re.search(r"^import (\w+)", snippet)[1])
        scope: dict[str, Any] = {}
        exec(snippet, scope)
        if "pd" in scope:
            assert str(scope["trades"]["filled_at"].dtype) == "datetime64[ms, UTC]"
    said = capsys.readouterr().out
    total = sum(
        usd for (usd,) in rows_in(loaded, "trades", "usd", f"toDate(filled_at) = '{DAYS[-2]}'")
    )
    assert said.count(f"{total.normalize():f}"[:8]) >= 2, (total, said)  # of pandas, of polars


def test_options_of_the_document_are_those_of_the_verb() -> None:
    from pipeline.verbs.cli import cli

    told = set(re.findall(r"`(--[a-z]+)`", DOCUMENT.split("## Options")[1].split("\n## ")[0]))
    options = {each.opts[0] for each in cli.commands["export"].params} - {"table", "--out"}
    assert options <= told


@given(
    rows=st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=2), max_size=8),
    size=st.integers(1, 9),
)
def test_rows_of_csv_are_counted_however_it_is_cut(rows: list[list[str]], size: int) -> None:
    sink = io.StringIO()
    csv.writer(sink, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["a", "b"], *rows])
    text, counter = sink.getvalue().encode("utf-8", "surrogatepass"), CsvCounter()
    for first in range(0, len(text), size):
        counter.add(text[first : first + size])
    assert counter.rows == len(rows)
