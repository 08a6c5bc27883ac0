"""Who may ask the embedded ClickHouse, and what its SQL may reach: the ways in that docs/security.md names, tried."""

from __future__ import annotations

import http.client
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import pytest
from worlds import PATIENCE_S

from embedded_clickhouse import Access, EmbeddedError, Endpoint, landlock, running
from embedded_clickhouse.killing import kills_queries
from embedded_clickhouse.passwords import OWNER, READER, password_file, password_of
from pipeline.settings import PROJECT_DIR

PAGE = "https://dashboard.example"
SECRET = "nobody may read this"
DENIED, UNKNOWN, READ_ONLY, AUTHENTICATION, BOUND = 497, 60, 164, 516, 396
confined = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")


class Place(NamedTuple):
    """A server, its folder, a file outside of it, and a port of this machine that notes who connects."""

    endpoint: Endpoint
    folder: Path
    secret: Path
    listener: socket.socket

    @property
    def files(self) -> Path:
        return self.folder / "files"


class Answer(NamedTuple):
    status: int
    code: int
    text: str
    headers: http.client.HTTPMessage


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("guarded")
    secret = folder / "secret.txt"
    secret.write_text(SECRET + "\n")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        running(folder / "data", 0, access=Access(origins=[PAGE])) as endpoint,
    ):
        listener.setblocking(False)
        (folder / "data" / "files" / "own.txt").write_text("mine\n")
        yield Place(endpoint, folder / "data", secret, listener)


def ask(
    place: Place,
    sql: str = "select 1",
    user: str = OWNER,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    **params: str,
) -> Answer:
    """Ask as a user with the right password; headers replace those that are sent anyway."""
    endpoint = place.endpoint
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=PATIENCE_S)
    signed = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password_of(place.folder, user)}
    connection.request(method, "/?" + urlencode(params), sql.encode(), signed | (headers or {}))
    response = connection.getresponse()
    try:
        body = response.read()
    except http.client.IncompleteRead as cut:
        body = cut.partial
    finally:
        connection.close()
    code = int(response.headers.get("X-ClickHouse-Exception-Code") or 0)
    return Answer(response.status, code, body.decode("utf-8", "replace"), response.headers)


# -- who asks ---


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"{PAGE}.evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "evil.example:80@127.0.0.1"},
        {"Host": "[::1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_page_of_another_site_gets_nothing(
    place: Place, headers: dict[str, str], method: str
) -> None:
    """With the right password too: a browser may remember it."""
    target = f"{place.files}/by-a-page.txt"
    answer = ask(
        place, f"insert into function file('{target}') select 1 format TSV", OWNER, method, headers
    )
    assert answer.status == 403
    assert answer.text.startswith("Refused: ")
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert not Path(target).exists()


def test_a_listed_page_and_this_servers_own_are_answered(place: Place) -> None:
    listed = ask(place, headers={"Origin": PAGE, "Sec-Fetch-Site": "cross-site"})
    assert (listed.status, listed.text) == (200, "1\n")
    assert listed.headers["Access-Control-Allow-Origin"] == PAGE
    asked = {"Origin": PAGE, "Access-Control-Request-Headers": "x-clickhouse-key"}
    preflight = ask(place, method="OPTIONS", headers=asked)
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Headers"] == "x-clickhouse-key"
    assert "Origin" in preflight.headers["Vary"]

    own = f"127.0.0.1:{place.endpoint.port}"
    for headers in (
        {"Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"},
        {"Host": f"localhost:{place.endpoint.port}"},
        {"Sec-Fetch-Site": "none"},  # typed into the address bar
    ):
        answer = ask(place, headers=headers)
        assert answer.text == "1\n"
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_nobody_is_let_in_without_the_password(place: Place) -> None:
    for user in (OWNER, READER, "", "other"):
        for key in ("", "wrong", password_of(place.folder, READER)):
            headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": key}
            if (user, key) == (READER, password_of(place.folder, READER)):
                continue
            assert ask(place, headers=headers).code == AUTHENTICATION


def test_what_is_stored_is_the_owners_alone(place: Place) -> None:
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
    open_to_others = [
        path
        for path in place.folder.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o077 and path.name != "own.txt"
    ]
    assert open_to_others == []


def test_a_folder_of_a_version_that_left_it_open_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with running(tmp_path, 0):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_password_is_made_once_and_may_be_set_or_left_out(tmp_path: Path) -> None:
    with running(tmp_path, 0) as endpoint:
        assert len(endpoint.password) >= 32
        assert password_file(tmp_path, OWNER).read_text().strip() == endpoint.password
        assert password_of(tmp_path, READER) != endpoint.password
        with running(tmp_path, 0) as shared:
            assert shared == endpoint
    with running(tmp_path / "other", 0, access=Access("chosen")) as endpoint:
        place = Place(endpoint, tmp_path / "other", tmp_path, None)
        assert ask(place, headers={"X-ClickHouse-Key": "chosen"}).text == "1\n"
        assert ask(place, headers={"X-ClickHouse-Key": ""}).code == AUTHENTICATION
    with running(tmp_path / "open", 0, access=Access("")) as endpoint:
        place = Place(endpoint, tmp_path / "open", tmp_path, None)
        assert ask(place, headers={"X-ClickHouse-Key": ""}).text == "1\n"


def test_passwords_made_at_once_are_one(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from embedded_clickhouse.passwords import *\n"
        "print(password_of(Path(sys.argv[1]), OWNER))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    started = [
        subprocess.Popen(command, cwd=PROJECT_DIR, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    assert len({process.communicate(timeout=PATIENCE_S)[0] for process in started}) == 1


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_another_user_of_this_machine_gets_nothing(place: Place) -> None:
    """Neither the data nor the password, and without it no answer."""
    program = (
        "import encodings.idna, os, sys, urllib.request, urllib.error; os.setgid(65534); os.setuid(65534)\n"
        "for path in sys.argv[2:]:\n"
        "    try: open(path); print('READ', path)\n"
        "    except PermissionError: pass\n"
        "try: print(urllib.request.urlopen(sys.argv[1]).read())\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
    )
    paths = [password_file(place.folder, OWNER), place.folder / "owner.lock"]
    url = f"http://127.0.0.1:{place.endpoint.port}/?query=select+1"
    command = [sys.executable, "-c", program, url, *map(str, paths)]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.stdout == "403\n", told.stderr


# -- what SQL may reach ---

FILES = [
    "select * from file('{secret}', LineAsString)",
    "select file('{secret}')",
    "select `f\\x69le`('{secret}')",
    "select arrayMap(file, ['{secret}'])",
    "select * apply(file) from (select '{secret}')",
    "select * from `{secret}`",
    "select * from '{secret}'",
    "select * from _paths.`{secret}`",
    "select * from file('../../secret.txt', LineAsString)",
    "select * from file('../default.password', LineAsString)",
    "select * from file('/proc/self/environ', LineAsString)",
    "select * from fileCluster('default', '{secret}', LineAsString)",
    "select * from icebergLocal('{folder}')",
    "create table default.stolen (line String) engine = File(LineAsString, '{secret}')",
    "create database stolen engine = Filesystem('/')",
    "create database stolen engine = SQLite('{secret}')",
    "create database stolen engine = `Backup`('a', File('{secret}'))",
    "select * from sqlite('{secret}', 't')",
    "select 1 format Template settings format_template_row = '{secret}'",
    "select * from format(Protobuf, 'x') settings format_schema = '{secret}:X'",
    "create dictionary default.stolen (a UInt64, b String) primary key a"
    " source(file(path '{secret}' format 'TSV')) layout(flat()) lifetime(0)",
    "create dictionary default.stolen (a UInt64, b String) primary key a"
    " source(/**/`executable`(command 'cat {secret}' format 'TSV')) layout(flat()) lifetime(0)",
    "create or replace dictionary default.stolen (a UInt64, b String) primary key a"
    " source(executable_pool(command 'cat {secret}' format 'TSV')) layout(flat()) lifetime(0)",
    "select * from executable('cat {secret}', TSV, 'a String')",
    "insert into default.lines from infile '{secret}' format LineAsString",
    "insert into default.lines /**/ from/**/infile '{secret}' format LineAsString",
    "insert into default.lines values (file('{secret}'))",
    "attach table default.stolen from '{folder}' (a UInt8) engine = MergeTree order by a",
    "create table default.stolen (a UInt8) engine = MergeTree order by a"
    " settings disk = disk(type = local, path = '{folder}')",
]  # fmt: skip
WRITES = [
    "insert into function file('{target}', TSV, 'a String') values ('x')",
    "select 1 into outfile '{target}'",
    "select 1 INTO/**/OUTFILE '{target}' truncate format TSV",
    "explain select 1 into outfile '{target}'",
    "backup database default to File('{target}')",
    "backup database default to Disk('default', '{target}')",
    "create table default.out (a UInt64) engine = EmbeddedRocksDB(0, '{target}') primary key a",
    "create database out engine = SQLite('{target}')",
    "system shutdown",
    "system kill",
]
NETWORK = [
    "select * from url('http://127.0.0.1:{port}/', TSV, 'a String')",
    "insert into function url('http://127.0.0.1:{port}/', TSV, 'a String') values ('x')",
    "select * from remote('127.0.0.1:{port}', system.one)",
    "select * from s3('http://127.0.0.1:{port}/bucket/key.tsv', 'a', 'b', TSV, 'a String')",
    "select * from mysql('127.0.0.1:{port}', 'a', 'b', 'c', 'd')",
    "select * from postgresql('127.0.0.1:{port}', 'a', 'b', 'c', 'd')",
    "select * from azureBlobStorage('http://127.0.0.1:{port}', 'c', 'b', 'a', 'YWJj', TSV, 'auto', 'a String')",
    "create database there engine = PostgreSQL('127.0.0.1:{port}', 'a', 'b', 'c')",
    "create database there engine = MySQL('127.0.0.1:{port}', 'a', 'b', 'c')",
    "create table default.there (a String) engine = URL('http://127.0.0.1:{port}/', TSV)",
    "create dictionary default.there (a UInt64, b String) primary key a"
    " source(http(url 'http://127.0.0.1:{port}/' format 'TSV')) layout(flat()) lifetime(0)",
    "create dictionary default.there (a UInt64, b String) primary key a"
    " source(clickhouse(host '127.0.0.1' port {port} table 'a' db 'b')) layout(flat()) lifetime(0)",
]  # fmt: skip


@pytest.mark.parametrize("user", [OWNER, READER])
@pytest.mark.parametrize("sql", FILES)
def test_sql_reads_no_file_outside_its_folder(place: Place, sql: str, user: str) -> None:
    ask(place, "create table if not exists default.lines (line String) engine = Memory")
    answer = ask(place, sql.format(secret=place.secret, folder=place.secret.parent), user)
    used = ask(place, "select * from default.stolen", user)  # a definition alone reads nothing
    assert answer.code or sql.startswith("create table")
    assert used.code
    ask(place, "drop table if exists default.stolen")
    assert SECRET not in answer.text + used.text
    assert password_of(place.folder, OWNER) not in answer.text
    assert ask(place, "select count() from default.lines").text == "0\n"


@pytest.mark.parametrize("user", [OWNER, READER])
@pytest.mark.parametrize("sql", WRITES)
def test_sql_writes_no_file_outside_its_folder(place: Place, sql: str, user: str) -> None:
    target = place.secret.parent / "written"
    assert ask(place, sql.format(target=target), user).code != 0
    assert not target.exists()
    assert ask(place).text == "1\n"


@pytest.mark.parametrize("user", [OWNER, READER])
@pytest.mark.parametrize("sql", NETWORK)
def test_sql_connects_to_nothing(place: Place, sql: str, user: str) -> None:
    answer = ask(place, sql.format(port=place.listener.getsockname()[1]), user)
    used = ask(place, "select * from default.there", user)
    assert answer.code or sql.startswith("create table")
    assert used.code
    for kind in ("table default.there", "database there"):
        ask(place, f"drop {kind}")
    with pytest.raises(BlockingIOError):
        place.listener.accept()


@confined
def test_sql_uses_files_of_its_folder(place: Place) -> None:
    assert ask(place, "select * from file('own.txt', LineAsString)").text == "mine\n"
    assert ask(place, f"select file('{place.files}/own.txt')").text == "mine\\n\n"
    written = ask(place, "insert into function file('new.csv', CSV, 'a Int8') values (7)")
    assert written.status == 200, written.text
    assert (place.files / "new.csv").read_text() == "7\n"
    for sql in ("select * from file('own.txt', LineAsString)", "select file('own.txt')"):
        assert ask(place, sql, READER).code == DENIED


def test_a_column_that_is_called_database_makes_no_database(place: Place) -> None:
    sql = "create table default.names engine = MergeTree order by (database, name) as select * from system.tables"
    assert ask(place, f"{sql} limit 0").status == 200
    assert ask(place, "create table default.names2 (database String) engine = Log").status == 200


def test_a_word_in_a_string_or_a_comment_is_no_file(place: Place) -> None:
    for sql in (
        "select 'file(1) into outfile'",
        "select 1 /* from infile */",
        "select 1 as outfile",
    ):
        assert ask(place, sql).status == 200


def test_sources_can_be_allowed(tmp_path: Path) -> None:
    with (
        pytest.raises(EmbeddedError, match=r"There is no source FTP: .*URL"),
        running(tmp_path, 0, access=Access(sources=["FTP"])),
    ):
        pass
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with running(tmp_path / "a", 0, access=Access(sources=["url"])) as endpoint:
            place = Place(endpoint, tmp_path / "a", tmp_path, listener)
            query = f"select * from url('http://127.0.0.1:{port}/', TSV, 'a String') settings"
            ask(place, f"{query} http_max_tries = 1, http_receive_timeout = 1")
            listener.accept()[0].close()
            answer = ask(place, f"select * from remote('127.0.0.1:{port}', system.one)")
            assert answer.code == DENIED


# -- the read-only user ---


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("insert into default.lines values ('x')", READ_ONLY),
        ("insert into default.lines format TSV\nx", READ_ONLY),
        ("insert into default.lines select 'x'", READ_ONLY),
        ("create table default.mine (a Int8) engine = Memory", READ_ONLY),
        ("create temporary table mine (a Int8)", READ_ONLY),
        ("drop table default.lines", READ_ONLY),
        ("truncate table default.lines", READ_ONLY),
        ("kill query where 1", READ_ONLY),
        ("set role owner", READ_ONLY),
        ("set role default", READ_ONLY),
        ("set readonly = 0", READ_ONLY),
        ("select 1 settings max_execution_time = 1000", READ_ONLY),
        ("select 1 settings readonly = 0", READ_ONLY),
        ("select number from numbers(1000001)", BOUND),
        ("select name from system.users", DENIED),
        ("select groupArray(number) from numbers(300000000)", 241),
    ],
)
def test_the_read_only_user_only_reads_and_within_bounds(place: Place, sql: str, code: int) -> None:
    ask(place, "create table if not exists default.lines (line String) engine = Memory")
    for params in ({}, {"session_id": "reader"}):
        answer = ask(place, sql, READER, **params)
        assert answer.code == code or f"Code: {code}." in answer.text
    assert ask(place, "select count() from default.lines", READER).text == "0\n"
    assert ask(place, "select getSetting('max_execution_time')", READER).text == "30\n"


def test_a_session_belongs_to_its_user(place: Place) -> None:
    ask(place, "create temporary table mine (a Int8)", session_id="shared")
    assert ask(place, "select count() from mine", session_id="shared").text == "0\n"
    assert ask(place, "select count() from mine", READER, session_id="shared").code == UNKNOWN
    assert ask(place, "drop table default.lines", READER, session_id="shared").code == READ_ONLY
    assert ask(place, "select 1", READER, max_execution_time="100").code == READ_ONLY


# -- an older folder ---


def test_tables_of_an_older_default_database_stay(tmp_path: Path) -> None:
    """It was an overlay, whose tables a link named."""
    program = (
        "import sys; from chdb.state.sqlitelike import Connection; c = Connection(sys.argv[1])\n"
        "c.query('create table default.old (a Int8) engine = MergeTree order by a')\n"
        "c.query('insert into default.old values (7)')"
    )
    folder = tmp_path / "data"
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-c", program, str(folder / "engine")], cwd=tmp_path, check=True
    )
    for rows in (1, 2, 3):
        with running(folder, 0) as endpoint:
            place = Place(endpoint, folder, tmp_path, None)
            assert ask(place, "select count() from default.old").text == f"{rows}\n"
            assert ask(place, "insert into default.old values (8)").status == 200
            assert ask(place, "exists table default.nothing").text == "0\n"
            assert ask(place, "exists table nothing").text == "0\n"
            os.kill(endpoint.pid, 9)


# ---------- backups


def backup_file(place: Place, folder: str, name: str = "x.tar") -> str:
    return f"File('{(place.folder / folder).resolve()}/{name}')"


@pytest.mark.parametrize(
    "sql",
    [
        "backup database default to File('x.tar')",
        "backup database default to File('/tmp/x.tar')",
        "backup database default to File('{data}/tmp/backup/../../backups/x.tar')",
        "backup database default to File('{data}/tmp/backup/x')",
        "backup database default to File('{data}/tmp/backup/.x.tar')",
        "backup database default to File('{data}/backups/x.tar')",
        "backup database default to Disk('default', 'x.tar')",
        "backup database default to S3('http://127.0.0.1:9/x', 'a', 'b')",
        "backup database default to Memory('x')",
        "backup database default to Null",
        "BACKUP ALL TO File('{data}/tmp/backup/x.tar') ASYNC",
        "backup database default to Null settings base_backup = File('{data}/tmp/backup/x.tar')",
        "backup database default to File('{data}/tmp/backup/x.tar', 'y')",
        "backup /* to */ database default to File({path:String})",
        "restore database default from File('{data}/tmp/backup/x.tar')",
        "restore database default from File('{data}/files/x.tar')",
        "restore database default from File('/etc/x.tar')",
        "restore all from Null settings base_backup = File('{data}/backups/x.tar')",
        "create table p1 (a Int8) engine = Memory parallel with restore all from File('{data}/backups/x.tar')",
        "execute as default restore table t from File('{data}/backups/x.tar')",
    ],
)
def test_sql_backs_up_and_restores_in_their_folders_only(place: Place, sql: str) -> None:
    statement = sql.replace("{data}", str(place.folder.resolve()))
    answer = ask(place, statement, param_path=f"{place.folder}/tmp/backup/x.tar")

    assert (answer.status, answer.code) == (403, DENIED) or answer.code == DENIED, answer.text
    assert "BACKUP and RESTORE are not available" in answer.text
    assert list((place.folder / "backups").iterdir()) == []
    assert list((place.folder / "tmp/backup").iterdir()) == []


def test_words_of_backups_may_stand_anywhere_else(place: Place) -> None:
    assert ask(place, "select 1 as backup, 'backup table x to Null' as restore").status == 200
    assert ask(place, "with backup as (select 1 as a) select a from backup").text == "1\n"
    assert ask(place, "create table restore (backup String) engine = Memory").status == 200
    assert ask(place, "insert into restore format TSV backup table\nrestore all\n").status == 200
    assert ask(place, "select count() from restore").text == "2\n"
    ask(place, "drop table restore")


def test_the_read_only_user_backs_up_and_restores_nothing(place: Place) -> None:
    for sql in (
        f"backup database default to {backup_file(place, 'tmp/backup')}",
        f"restore database default from {backup_file(place, 'backups')}",
    ):
        assert ask(place, sql, user=READER).code in (DENIED, READ_ONLY)
    assert list((place.folder / "tmp/backup").iterdir()) == []


@confined
def test_sql_cannot_make_or_change_what_restore_reads(place: Place) -> None:
    kept = place.folder / "backups" / "kept.tar"
    kept.write_bytes(b"precious")
    for name in (kept.name, "forged.tar"):
        path = kept.with_name(name).resolve()
        answer = ask(
            place,
            f"insert into function file('{path}', 'RawBLOB', 'a String')"
            " settings engine_file_truncate_on_insert = 1 select 'x'",
        )
        assert answer.status != 200
    assert kept.read_bytes() == b"precious"
    assert [each.name for each in kept.parent.iterdir()] == ["kept.tar"]
    kept.unlink()


# -- what clients may send besides SQL ---


def test_the_read_only_user_brings_no_tables_and_kills_nothing(place: Place) -> None:
    form = '--x\r\nContent-Disposition: form-data; name="e"; filename="e"\r\n\r\n1\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    brought = ask(place, form, READER, "POST", kind, query="select 1", e_structure="a UInt8")
    assert brought.code == READ_ONLY
    assert ask(place, "kill query where query_id = 'x'", READER).code == READ_ONLY


@pytest.mark.parametrize(
    ("structure", "code"),
    [
        ("a String default file('/etc/passwd')", (DENIED, 36, 76, 107, 291)),
        ("a UInt8) engine = URL('http://127.0.0.1/', CSV) --", (36,)),
    ],
)
def test_columns_of_external_tables_reach_no_further_than_sql(
    place: Place, structure: str, code: tuple[int, ...]
) -> None:
    form = '--x\r\nContent-Disposition: form-data; name="e"; filename="e"\r\n\r\n\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = ask(place, form, OWNER, "POST", kind, query="select * from e", e_structure=structure)
    assert SECRET not in answer.text
    assert "root:" not in answer.text
    assert answer.code in (0, *code)


def test_a_mistake_does_not_let_the_read_only_user_write(place: Place) -> None:
    """What does not parse is run by a session that may only read, for the engine's own message."""
    for sql in ("selec 1", "create table default.x (a Int8) engine = Memory frm", "drop tabl x"):
        assert ask(place, sql, READER).code == 62
        assert ask(place, "", OWNER, "GET", query=sql).code == 62


def test_the_page_is_not_for_other_sites(place: Place) -> None:
    connection = http.client.HTTPConnection(
        place.endpoint.host, place.endpoint.port, timeout=PATIENCE_S
    )
    connection.request("GET", "/play", headers={"Sec-Fetch-Site": "cross-site"})
    assert connection.getresponse().status == 403
    connection.close()


# -- texts that two lexers could read differently ---

_AS_USE = "/* /* */ USE ' */ "  # what follows is a string to a lexer whose comments do not nest
_IN_STRING = "/*/**/'*/ "  # the same, of what follows a quote
_NBSP = "\u00a0"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "sql",
    [
        _AS_USE + "SELECT 'x' INTO OUTFILE '{folder}/engine/metadata/default.sql' TRUNCATE",
        _AS_USE + "SHOW TABLES INTO OUTFILE 'f.txt'",
        "SHOW TABLES INTO OUTFILE 'f.txt'",
        f"SHOW TABLES INTO{_NBSP}OUTFILE 'f.txt'",
        "EXPLAIN SELECT ‘'’ INTO OUTFILE 'f.txt' --'",
        "EXPLAIN SELECT $'$ ' $'$ INTO OUTFILE 'f.txt' --'",
        _AS_USE + "SET ROLE owner -- '",
        f"SET{_NBSP}ROLE owner",
        "SET ROLE owner",
        "SET readonly = 0",
        "EXECUTE AS default SELECT 1",
        _AS_USE + "KILL QUERY WHERE 1 -- '",
        "kill/**/query where 1",
        _AS_USE + "CREATE TEMPORARY TABLE tt (a Int8) -- '",
        _AS_USE + "SYSTEM FLUSH LOGS -- '",
        "SELECT 1 PARALLEL WITH SYSTEM FLUSH LOGS",
        _IN_STRING + "SELECT 1; SELECT 2",
        "CHECK TABLE system.one",
    ],
)
def test_the_reader_cannot_hide_what_it_may_not(place: Place, sql: str, method: str) -> None:
    definition = place.folder / "engine/metadata/default.sql"
    before = definition.read_text()
    sql = sql.format(folder=place.folder)
    session = {"session_id": "hiding"}
    body, query = (sql, {}) if method == "POST" else ("", {"query": sql})
    answer = ask(place, body, READER, method, **session, **query)
    assert answer.code in (62, READ_ONLY, 358), answer.text
    roles = ask(place, "select currentRoles(), getSetting('readonly')", READER, **session)
    assert roles.text == "['reader']\t1\n"
    assert definition.read_text() == before
    assert not (place.files / "f.txt").exists()


@pytest.mark.parametrize(
    "sql",
    [
        f"SHOW TABLES INTO{_NBSP}OUTFILE 'x.txt'",
        "EXPLAIN SELECT ‘'’ INTO OUTFILE 'x.txt' --'",
        _IN_STRING + "BACKUP TABLE system.one TO Disk('default', 'x.tar')",
        _IN_STRING + "BACKUP TABLE system.one TO File('{folder}/files/o.tar')",
        _IN_STRING + "RESTORE TABLE system.one AS default.r FROM File('{folder}/tmp/backup/o.tar')",
        _IN_STRING + "CREATE DATABASE made ENGINE=Filesystem('{folder}')",
        f"CREATE{_NBSP}DATABASE made ENGINE=Filesystem('/tmp')",
        "CREATE TABLE a (x Int8) ENGINE=Memory PARALLEL WITH CREATE DATABASE made ENGINE=Filesystem('/')",
        _IN_STRING + "CREATE TABLE made (a String) ENGINE=URL('http://127.0.0.1:1/','CSV')",
        "CREATE TABLE made (engine String) ENGINE=URL('http://127.0.0.1:1/','CSV')",
        "CREATE TABLE made (a String) ENGINE=“URL”('http://127.0.0.1:1/','CSV')",
        _IN_STRING + "CREATE DICTIONARY made (k UInt64) PRIMARY KEY k"
        " SOURCE(EXECUTABLE(COMMAND 'id' FORMAT TSV)) LAYOUT(FLAT()) LIFETIME(0)",
        _IN_STRING + "SELECT 1; SELECT 2",
        "SELECT 1; SELECT 2 /* /* */ ' */ -- '",
    ],
)
def test_the_owner_cannot_hide_what_nobody_may(place: Place, sql: str) -> None:
    answer = ask(place, sql.format(folder=place.folder))
    assert answer.code in (48, 62, 358, DENIED), answer.text
    assert not (place.files / "x.txt").exists()
    assert not (place.files / "o.tar").exists()
    made = "select count() from system.tables where name = 'made' or database = 'made'"
    assert ask(place, made).text == "0\n"


def test_a_column_may_be_called_engine(place: Place) -> None:
    assert ask(place, "create table e (engine String, database Int8) engine = Memory").status == 200
    assert ask(place, "drop table e").status == 200


def test_an_owner_that_may_only_read_cannot_hide_that_it_writes(place: Place) -> None:
    ask(place, "create or replace table gw engine = MergeTree order by a as select 1 as a")
    for statement in ("TRUNCATE TABLE gw", "DROP TABLE gw", "INSERT INTO gw SELECT 2"):
        sql = f"{_AS_USE}{statement} -- '"
        assert ask(place, "", OWNER, "GET", query=sql).code == READ_ONLY
        assert ask(place, sql, readonly="1").code == READ_ONLY
    assert ask(place, "select * from gw").text == "1\n"


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT number FROM numbers(2) /* /* x */ FORMAT CSV SETTINGS max_threads=1 */", "0\n1\n"),
        (
            "SELECT number FROM numbers(2) /* o: /* t */ SELECT 1 FORMAT JSON SETTINGS a=1 */",
            "0\n1\n",
        ),
        ("SELECT number FROM numbers(2) /* /* x */ FORMAT JSON -- */", "0\n1\n"),
        ("SELECT ‘x FORMAT CSV’", "x FORMAT CSV\n"),
        ("SELECT ‘x;y’", "x;y\n"),
        ("SELECT ‘it's’ FORMAT TSVRaw", "it's\n"),
        ("SELECT 'a' FORMAT `CSV`", '"a"\n'),
        (f"SELECT{_NBSP}'a'{_NBSP}FORMAT{_NBSP}CSV", '"a"\n'),
        ("SELECT 'a' // FORMAT CSV", "a\n"),
        ("SELECT 'a' #! FORMAT CSV", "a\n"),
        ("SELECT 3−1", "2\n"),
        ("/*/**/*/ SELECT 5", "5\n"),
        ("SELECT '' FORMAT RawBLOB", ""),
        ("SELECT 1 FORMAT Null", ""),
        ("SELECT $a$ x; FORMAT CSV $a$", " x; FORMAT CSV \n"),
    ],
)
@pytest.mark.parametrize("user", [OWNER, READER])
def test_a_select_with_odd_characters_is_answered_whole(
    place: Place, sql: str, text: str, user: str
) -> None:
    """Never by 200 and nothing."""
    answer = ask(place, sql, user)
    assert (answer.code, answer.text) == (0, text)


def test_a_kill_in_disguise_is_one_and_a_test_is_none() -> None:
    assert kills_queries(b"kill/**/query where 1")
    assert kills_queries(
        b"/* /* */ x */ KILL -- x\nQUERY WHERE query LIKE '%TEST%' SYNC FORMAT Null"
    )
    assert not kills_queries(b"KILL QUERY WHERE 1 TEST")
    assert not kills_queries(b"KILL MUTATION WHERE 1")


def test_a_parameter_is_a_name_and_ends_with_its_request(place: Place) -> None:
    ask(place, "create or replace table pa (a Int8) engine = Memory")
    into = "insert into {t:Identifier} format TSV"
    bad = {"param_x = 'y', readonly": "1", "session_id": "pa"}
    assert ask(place, "1\n", query=into, **bad).code == 36
    assert ask(place, "1\n", query=into, param_t="pa", session_id="pa").status == 200
    assert ask(place, "select * from pa").text == "1\n"
    assert ask(place, "select {t:String}", session_id="pa").code == 456


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("limit", "1"),
        ("offset", "1"),
        ("max_result_rows", "1"),
        ("max_result_bytes", "1"),
        ("result_overflow_mode", "break"),
        ("additional_result_filter", "0"),
        ("max_rows_to_read", "1"),
        ("max_threads", "3"),
        ("output_format_json_quote_64bit_integers", "1"),
        ("extremes", "1"),
    ],
)
def test_settings_of_a_request_end_with_it(place: Place, setting: str, value: str) -> None:
    """Also those by which a SELECT returns less, so that nothing could be read while they count."""
    session = {"session_id": f"kept {setting}"}
    now = f"select value from system.settings where name = '{setting}'"
    usual = ask(place, now, **session).text
    for others in ({}, {"limit": "1"}, {"offset": "1"}, {"max_result_rows": "1"}):
        ask(place, "select 1 union all select 2", **session, **{**others, setting: value})
        ask(place, "use system", **session, **{**others, setting: value})
        assert ask(place, "select currentDatabase()", **session).text == "system\n"
        assert ask(place, now, **session).text == usual


def test_what_a_session_has_set_comes_back_after_a_request(place: Place) -> None:
    session = {"session_id": "set"}
    now = "select getSetting('max_block_size'), getSetting('max_threads')"
    assert ask(place, "set max_block_size = 77, `max_threads` = 3", **session).status == 200
    for others in ({"max_block_size": "5"}, {"max_threads": "1", "offset": "1"}, {"limit": "1"}):
        ask(place, now, **session, **others)
        assert ask(place, now, **session).text == "77\t3\n"
    ask(place, "set max_block_size = DEFAULT", **session, max_block_size="5")
    usual = ask(place, "select getSetting('max_block_size')").text
    assert ask(place, "select getSetting('max_block_size')", **session).text == usual


@pytest.mark.parametrize("name", ["a&b", "a%41b", "a?b", "a#b"])
def test_a_folder_by_whose_name_the_roles_were_lost_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EmbeddedError), running(tmp_path / name, 0):
        pass


def test_the_reader_brings_no_large_texts(place: Place) -> None:
    assert ask(place, "select 1" + " " * (300 << 10), READER).code == 229
    form = "--x\r\nContent-Disposition: form-data; name=e; filename=e\r\n\r\n" + "x" * (2 << 20)
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert ask(place, form + "\r\n--x--\r\n", READER, "POST", kind, query="select 1").code == 229


@pytest.mark.parametrize(
    ("user", "setting", "value", "code"),
    [
        (READER, "max_threads", "3", READ_ONLY),
        (READER, "nope", "0", 115),
        (OWNER, "nope", "1", 115),
        (OWNER, "max_threads", "many", 27),
    ],
)
def test_a_session_outlives_a_setting_that_is_refused(
    place: Place, user: str, setting: str, value: str, code: int
) -> None:
    session = {"session_id": f"refused {setting} {value}"}
    now = "select getSetting('max_threads')"
    usual = ask(place, now, user, **session).text
    assert ask(place, "select 1", user, **session, **{setting: value}).code in (code, 6)
    assert ask(place, now, user, **session).text == usual
    assert ask(place, "select 1", user, **session).text == "1\n"


def test_a_kill_that_only_tests_harms_nobody(place: Place) -> None:
    slow = "select sleepEachRow(0.3), 'tested' from numbers(5) settings max_block_size = 1"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, place, slow)
        kill = "KILL QUERY WHERE query LIKE '%''tested''%' AND query_id != queryID() TEST"
        while "tested" not in ask(place, kill).text and not answer.done():
            pass
        assert not answer.done()
        assert ask(place, kill).status == 200
        assert answer.result().text == "0\ttested\n" * 5
