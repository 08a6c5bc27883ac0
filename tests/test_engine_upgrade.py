"""Upgrades of the engine: folders of older ones open with every row, and a folder of a newer one is refused in one line.

`old_folders/make.py` wrote the folders with the engines that their names say.
"""

from __future__ import annotations

import json
import tarfile
from importlib.metadata import version
from pathlib import Path

import clickhouse_connect
import pytest

from embedded_clickhouse import EmbeddedError, running
from embedded_clickhouse.versions import EngineVersion

OLD_FOLDERS = sorted((Path(__file__).parent / "old_folders").glob("*.tar.gz"))


def connect(endpoint):
    return clickhouse_connect.get_client(
        host=endpoint.host, port=endpoint.port, password=endpoint.password
    )


def answer(client, query: str) -> list[dict]:
    return parsed(client.raw_query(query, fmt="JSONEachRow").decode())


def parsed(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("archive", OLD_FOLDERS, ids=lambda path: path.name)
def test_a_folder_of_an_older_engine_opens_with_every_row(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    expected = json.loads((tmp_path / "expected.json").read_text())
    assert archive.name.startswith(expected["chdb_core"])
    assert not (tmp_path / "data/engine.version").exists()  # of before there was one

    with running(tmp_path / "data", 0) as endpoint:
        client = connect(endpoint)
        for query, then in expected["answers"].items():
            assert answer(client, query) == parsed(then), query
        client.command("insert into kinds.versions (id, seen_at) values (1000, now())")
        client.command("optimize table kinds.versions final")  # rebuilds projections
        assert client.command("select count() from kinds.latest") == 41
        assert client.command("select count() from system.detached_parts") == 0

    written = json.loads((tmp_path / "data/engine.version").read_text())
    assert written["package"] == version("chdb-core") and written["engine"].startswith("26.")


def test_a_folder_of_a_newer_engine_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "engine.version"
    file.write_text('{"package": "99.1.2", "engine": "99.1.2.1", "of a later version": 1}')
    with pytest.raises(EmbeddedError) as refusal, running(tmp_path, 0):
        pass

    message = str(refusal.value)
    assert "were written by chdb-core 99.1.2, and chdb-core " in message
    assert "install chdb-core 99.1.2 or newer, or restore a backup" in message
    assert "\n" not in message
    assert not (tmp_path / "engine").exists()  # untouched
    assert "99.1.2" in file.read_text()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"package": "soon"}'])
def test_a_version_file_that_says_nothing_keeps_nobody_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "engine.version").write_text(text)
    with running(tmp_path, 0) as endpoint:
        assert connect(endpoint).command("select 1") == 1
    assert json.loads((tmp_path / "engine.version").read_text())["package"] == version("chdb-core")


def test_releases_of_one_line_open_each_others_folders(tmp_path: Path) -> None:
    year, number, *_ = version("chdb-core").split(".")
    (tmp_path / "engine.version").write_text(json.dumps({"package": f"{year}.{number}.999"}))
    with running(tmp_path, 0) as endpoint:
        assert connect(endpoint).command("select 1") == 1


@pytest.mark.parametrize(
    ("older", "newer"), [("26.5.0", "26.9.0"), ("26.9.0", "26.10.0"), ("25.12.1", "26.1.0")]
)
def test_lines_are_compared_as_numbers(older: str, newer: str) -> None:
    assert EngineVersion(older).line < EngineVersion(newer).line
