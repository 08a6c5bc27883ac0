"""What clients send to the embedded ClickHouse, and how a server would answer it."""

import gzip
import socket
import struct
import threading
import time
import zlib

import lz4.block
import pytest
from clickhouse_cityhash.cityhash import CityHash128
from hypothesis import given
from hypothesis import strategies as st
from test_embedded_clickhouse_http import SLOW, Answer, ask
from test_embedded_clickhouse_http import table as table
from worlds import PATIENCE_S

from embedded_clickhouse import Endpoint
from embedded_clickhouse.blocks import BlockCompressor, BlockDecompressor
from embedded_clickhouse.compression import (
    PIECE_BYTES,
    RESPONSE_ENCODINGS,
    compressor,
    decompressor,
    zstd,
)
from embedded_clickhouse.protocol import chosen_encoding


def form(fields: dict[str, str], files: dict[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a multipart form."""
    parts = [
        *(f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()),
        *(b'name="%b"; filename="f"\r\n\r\n%b' % (n.encode(), data) for n, data in files.items()),
    ]
    lines = b"".join(b"--x\r\nContent-Disposition: form-data; %b\r\n" % part for part in parts)
    return lines + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def raw(endpoint: Endpoint, head: str) -> bytes:
    with socket.create_connection((endpoint.host, endpoint.port), timeout=PATIENCE_S) as client:
        client.sendall(head.encode("latin-1"))
        return b"".join(iter(lambda: client.recv(65536), b""))


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 40))
def test_blocks_come_out_as_they_went_in(pieces: list[bytes], size: int) -> None:
    packer, unpacker = BlockCompressor(), BlockDecompressor()
    packed = b"".join(packer.compress(piece) for piece in pieces)
    parts = (packed[at : at + size] for at in range(0, len(packed), size))
    plain = [piece for part in parts for piece in unpacker.decompress(part)]
    assert b"".join(plain) == b"".join(pieces)
    assert unpacker.is_complete


def test_answers_and_bodies_may_be_blocks(clickhouse: Endpoint, table: str) -> None:
    data = BlockCompressor().compress(b"1\tone\n2\ttwo\n")
    insert = ask(clickhouse, data, query=f"insert into {table} format TSV", decompress=1)
    assert (insert.status, insert.summary["written_rows"]) == (200, 2), insert.text
    answer = ask(clickhouse, f"select * from {table}".encode(), compress=1)
    assert "Content-Encoding" not in answer.headers
    assert b"".join(BlockDecompressor().decompress(answer.body)) == b"1\tone\n2\ttwo\n"
    shown = ask(clickhouse, f"exists {table}".encode(), compress=1)
    assert b"".join(BlockDecompressor().decompress(shown.body)) == b"1\n"


def test_blocks_are_those_of_a_server() -> None:
    """As `printf 1 | clickhouse-compressor` writes them, but for how LZ4 packs."""
    block = BlockCompressor().compress(b"select 1")
    assert block[16] == 0x82
    assert int.from_bytes(block[17:21], "little") == len(block) - 16
    assert lz4.block.decompress(block[25:], uncompressed_size=8) == b"select 1"


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:30] + b"?" + b[31:]])
def test_damaged_blocks_are_refused(clickhouse: Endpoint, damage) -> None:
    body = damage(BlockCompressor().compress(b"select 1, 'and so on'"))
    assert ask(clickhouse, body, decompress=1).code == 271


@pytest.mark.parametrize(
    "described",
    [
        {"ext_structure": "a UInt8, s String", "ext_format": "TabSeparated"},
        {"ext_structure": "a UInt8, s String"},
        {"ext_types": "UInt8,Nullable(String)"},
    ],
)
@pytest.mark.parametrize("in_url", [True, False])
def test_a_query_may_bring_tables(clickhouse: Endpoint, described, in_url: bool) -> None:
    body, headers = form({} if in_url else described, {"ext": b"1\tone\n2\ttwo\n"})
    url = described if in_url else {}
    answer = ask(clickhouse, body, headers=headers, query="select * from ext", **url)
    assert answer.text == "1\tone\n2\ttwo\n"


def test_tables_are_gone_after_their_query(clickhouse: Endpoint) -> None:
    body, headers = form({"e_structure": "a UInt8"}, {"e": b"1\n"})
    session = {"session_id": "tables"}
    for _ in range(2):
        answer = ask(clickhouse, body, headers=headers, query="select sum(a) from e", **session)
        assert answer.text == "1\n"
    assert ask(clickhouse, b"select * from e", **session).code == 60


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("e", ""),
        ("e", "a UInt8) engine = Memory as select (1"),
        ("e", "a UInt8) engine = URL('http://127.0.0.1') --"),
        ("e", "a UInt8 --"),
        ("e", "a UInt8); drop table x; ("),
        ("e`", "a UInt8"),
    ],
)
def test_a_structure_is_columns_and_nothing_else(clickhouse, name, structure) -> None:
    body, headers = form({f"{name}_structure": structure}, {name: b"1\n"})
    assert ask(clickhouse, body, headers=headers, query="select 1").code in (36, 62)


def test_a_query_is_killed_by_its_id(clickhouse: Endpoint) -> None:
    answers: list[Answer] = []
    asking = threading.Thread(
        target=lambda: answers.append(ask(clickhouse, SLOW.encode(), query_id="to be killed"))
    )
    asking.start()
    kill = b"KILL QUERY WHERE query_id = 'to be killed' SYNC FORMAT TSV"
    deadline = time.monotonic() + PATIENCE_S
    while not (killed := ask(clickhouse, kill)).text:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    asking.join()
    assert killed.text.startswith("waiting\tto be killed\tdefault\tselect sum(")
    assert answers[0].code == 394
    assert ask(clickhouse, kill).text == ""


@pytest.mark.parametrize("attempt", range(12))
def test_a_query_that_a_condition_kills_is_never_answered_as_complete(
    clickhouse: Endpoint, attempt: int
) -> None:
    """The engine may end it without an error, and without its rows."""
    sql = (
        f"select number % 10 as k, count() from numbers(50000000) group by k /* victim {attempt} */"
    )
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(ask(clickhouse, sql.encode())))
    asking.start()
    condition = f"query like '%victim {attempt} %' and query not like '%kill%'"
    while asking.is_alive():
        killed = ask(clickhouse, f"kill query where {condition} format JSONEachRow".encode())
        assert killed.status == 200
        assert not killed.text or killed.text.startswith('{"kill_status":"')
    [answer] = answers
    assert answer.code == 394 or answer.text.count("\t5000000\n") == 10


def test_a_mistake_in_a_get_is_a_syntax_error(clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, method="GET", query="select 1 frm x y")
    assert (answer.status, answer.code) == (400, 62), answer.text


def test_data_keep_what_ends_a_statement(clickhouse: Endpoint, table: str) -> None:
    insert = f"with 1 as one insert into {table} format TSV\n1\ta;\n2\t;b\n"
    assert ask(clickhouse, insert.encode()).status == 200
    assert ask(clickhouse, f"select s from {table} order by a".encode()).text == "a;\n;b\n"


def test_dollars_make_no_heredoc_of_a_parameter(clickhouse: Endpoint) -> None:
    sql = b"select {$x$:Int32} format JSONCompactEachRow"
    assert ask(clickhouse, sql, **{"param_$x$": "7"}).text == "[7]\n"


def test_the_name_of_a_parameter_may_begin_with_a_digit(clickhouse: Endpoint) -> None:
    assert ask(clickhouse, b"select {13_:Int32}", param_13_="5").text == "5\n"


def test_urls_of_any_bytes_are_answered(clickhouse: Endpoint) -> None:
    signed = (
        f"Host: localhost\r\nConnection: close\r\nX-ClickHouse-Key: {clickhouse.password}\r\n\r\n"
    )
    assert b"\xff\n" in raw(clickhouse, f"GET /?query=select+'%FF' HTTP/1.1\r\n{signed}")
    assert b" 400 " in raw(clickhouse, f"GET /?database=%FF HTTP/1.1\r\n{signed}")
    assert b" 400 " in raw(clickhouse, f"GET /\xff?query=select HTTP/1.1\r\n{signed}")


def test_what_a_client_does_not_want_is_not_chosen() -> None:
    assert chosen_encoding("zstd;q=0, gzip", ("zstd", "gzip")) == "gzip"
    assert chosen_encoding("zstd; q=0.000", ("zstd", "gzip")) is None
    assert chosen_encoding("zstd;q=0.5", ("zstd", "gzip")) == "zstd"


def test_an_unknown_role_is_an_error(clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, b"select 1", role="nobody")
    assert (answer.status, answer.code) == (404, 511)


def test_progress_is_told_in_the_head(clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, b"select 1", send_progress_in_http_headers=1)
    assert '"read_rows":"1"' in answer.headers["X-ClickHouse-Progress"]


def test_progress_is_told_between_rows(clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, b"select 7 as n", default_format="JSONEachRowWithProgress")
    assert '{"row":{"n":7}}' in answer.text
    assert '{"progress":' in answer.text


def test_tables_of_default_exist(clickhouse: Endpoint) -> None:
    ask(clickhouse, b"create table if not exists default.here (a Int8) engine = Memory")
    assert ask(clickhouse, b"exists table here").text == "1\n"
    assert ask(clickhouse, b"exists table not_here").text == "0\n"


def test_an_error_behind_packed_rows_can_be_unpacked(clickhouse: Endpoint) -> None:
    query = b"select number, throwIf(number = 900000) from numbers(1000000)"
    headers = {"Accept-Encoding": "gzip"}
    answer = ask(clickhouse, query, headers=headers, enable_http_compression=1)
    plain = zlib.decompressobj(wbits=31).decompress(answer.body)
    assert not answer.is_complete
    assert b"__exception__" in plain
    assert b"Code: 395." in plain


def test_the_page_is_whole_and_strict(clickhouse: Endpoint) -> None:
    """No password is needed to see it, and it may ask this server only."""
    signed = "Host: localhost\r\nConnection: close\r\n\r\n"
    head, _, page = raw(clickhouse, f"GET /play HTTP/1.1\r\n{signed}").partition(b"\r\n\r\n")
    policy = next(
        line for line in head.split(b"\r\n") if b"content-security-policy" in line.lower()
    )
    assert b"default-src 'none'; script-src 'sha256-" in policy
    assert b"unsafe" not in policy
    assert b"<textarea" in page
    assert not [word for word in (b"http://", b"https://", b"innerHTML", b"src=") if word in page]


def test_the_pages_own_requests_are_answered(clickhouse: Endpoint) -> None:
    headers = {
        "Origin": f"http://{clickhouse.host}:{clickhouse.port}",
        "Sec-Fetch-Site": "same-origin",
        "X-ClickHouse-User": "default",
    }
    answer = ask(
        clickhouse,
        b"select 1 as n",
        headers=headers,
        default_format="JSONCompactEachRowWithNamesAndTypes",
    )
    assert answer.text == '["n"]\n["UInt8"]\n[1]\n'


def test_errors_are_packed_as_results_are(clickhouse: Endpoint) -> None:
    headers = {"Accept-Encoding": "gzip"}
    answer = ask(clickhouse, b"selec", headers=headers, enable_http_compression=1)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.body).startswith(b"Code: 62.")


def _bomb(encoding: str, size: int) -> bytes:
    packer = compressor(encoding)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def _block(method: int, packed: bytes, size: int) -> bytes:
    body = struct.pack("<BII", method, 9 + len(packed), size) + packed
    return CityHash128(body).to_bytes(16, "little") + body


@pytest.mark.parametrize("encoding", RESPONSE_ENCODINGS)
def test_a_bomb_is_unpacked_piece_by_piece(encoding: str) -> None:
    codec, sizes = decompressor(encoding), []
    for piece in codec.decompress(_bomb(encoding, 40 << 20) * 2):
        sizes.append(len(piece))
    assert max(sizes) <= PIECE_BYTES
    assert (sum(sizes), codec.is_complete) == (80 << 20, True)


@pytest.mark.parametrize("encoding", RESPONSE_ENCODINGS)
def test_a_bomb_is_no_statement(clickhouse: Endpoint, encoding: str) -> None:
    packed = _bomb(encoding, 80 << 20)
    answer = ask(clickhouse, packed, headers={"Content-Encoding": encoding})
    assert (answer.status, answer.code) == (413, 229), answer.text
    assert ask(clickhouse, b"select 1").text == "1\n"


@pytest.mark.parametrize(
    "block",
    [
        _block(0x90, zstd.compress(bytes(1 << 20)), 100),
        _block(0x82, b"\x10a", 0x4000_0000),
        _block(0x82, b"\x10a", 0x100_0000),
        _block(0x90, zstd.compress(bytes(1 << 20)), 0x3FFF_FFFF),
    ],
)
def test_a_block_holds_what_it_announces(clickhouse: Endpoint, block: bytes) -> None:
    assert ask(clickhouse, block, decompress=1).code == 271


def test_urls_and_heads_of_too_many_parts_are_refused(clickhouse: Endpoint) -> None:
    many = "&".join(f"a{number}" for number in range(1500))
    head = "Host: localhost\r\nConnection: close\r\n"
    signed = f"{head}X-ClickHouse-Key: {clickhouse.password}\r\n\r\n"
    assert b"more than 1000 parameters" in raw(clickhouse, f"GET /?{many} HTTP/1.1\r\n{signed}")
    unsigned = raw(clickhouse, f"GET /?{many} HTTP/1.1\r\n{head}X-ClickHouse-Key: no\r\n\r\n")
    assert b"Authentication failed" in unsigned
    lines = "a:\r\n" * 1500
    assert b" 400 " in raw(clickhouse, f"GET /ping HTTP/1.1\r\n{head}{lines}\r\n")


def test_forms_are_bounded(clickhouse: Endpoint) -> None:
    body, headers = form({f"f{number}": "x" for number in range(1500)}, {})
    assert ask(clickhouse, body, headers=headers, query="select 1").code == 36


def test_headers_that_are_none_are_refused_in_words(clickhouse: Endpoint) -> None:
    head = "GET /?query=select+1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    assert b" 403 " in raw(clickhouse, f"{head}Origin: http://[\r\n\r\n")
    assert b" 403 " in raw(clickhouse, f"{head}Origin: http://[::1]x]\r\n\r\n")
    answer = raw(clickhouse, f"{head}Authorization: Basic \xff\xff\r\n\r\n")
    assert b" 403 " in answer and b"X-ClickHouse-Exception-Code: 516" in answer.replace(
        b"x-clickhouse-exception-code", b"X-ClickHouse-Exception-Code"
    )
