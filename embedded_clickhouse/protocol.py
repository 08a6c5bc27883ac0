"""The ClickHouse HTTP interface as facts and pure functions: parameters, statuses, headers, errors.

Facts come from ClickHouse's own HTTP handler, its map of error codes to statuses and its output
formats (26.x). It promises answers that an unmodified client cannot tell from a server's; it
touches neither the network nor the engine.
"""

import base64
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from urllib.parse import parse_qsl

OWNER_ROLE = "owner"  # of access.py


class Code(IntEnum):
    """ClickHouse's error codes that occur here, named as its function errorCodeToName names them."""

    BAD_ARGUMENTS = 36
    NOT_IMPLEMENTED = 48
    LOGICAL_ERROR = 49
    SYNTAX_ERROR = 62
    UNKNOWN_FORMAT = 73
    UNKNOWN_COMPRESSION_METHOD = 89
    UNKNOWN_SETTING = 115
    READONLY = 164
    QUOTA_EXCEEDED = 201
    TOO_MANY_SIMULTANEOUS_QUERIES = 202
    SOCKET_TIMEOUT = 209
    QUERY_IS_TOO_LARGE = 229
    NOT_ENOUGH_SPACE = 243
    CANNOT_DECOMPRESS = 271
    INTO_OUTFILE_NOT_ALLOWED = 358
    SESSION_NOT_FOUND = 372
    SESSION_IS_LOCKED = 373
    INVALID_SESSION_TIMEOUT = 374
    QUERY_WAS_CANCELLED = 394
    ACCESS_DENIED = 497
    AUTHENTICATION_FAILED = 516
    UNKNOWN_ROLE = 511
    STD_EXCEPTION = 1001


# fmt: off
_CODES_OF_STATUS = {
    401: (194,),
    403: (192, 193, 497, 512, 516),
    400: (6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223, 321, 376,
          427, 441, 675, 676),  # the statement or its data cannot be understood
    404: (46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511),  # a name stands for nothing
    408: (159,),
    411: (381,),
    413: (229,),
    415: (779,),
    501: (48,),
    503: (76, 209, 439),
}
# fmt: on
_STATUS_OF_CODE = {code: status for status, codes in _CODES_OF_STATUS.items() for code in codes}

# Parameters that the interface itself consumes; every other one is a setting of the query.
_RESERVED = frozenset(
    {
        *("query", "query_id", "database", "default_format", "user", "password", "quota_key"),
        *("session_id", "session_timeout", "session_check", "close_session", "role"),
        *("compress", "decompress", "enable_http_compression", "client_protocol_version"),
        *("readonly", "wait_end_of_query", "buffer_size", "stacktrace", "add_http_cors_header"),
        *("send_progress_in_http_headers", "cancel_http_readonly_queries_on_client_close"),
    }
)
# What the engine takes of a single query only and is its default anyway; here settings are SET.
_NOT_OF_SESSIONS = frozenset({("run_query_in_background", "0")})
_RESERVED_PREFIXES = ("param_", "http_")
_MAX_FIELDS = 1000
_NOT_AT_ALL = re.compile(r"q=0(\.0*)?\Z")
_PARAMETER = re.compile(r"[A-Za-z0-9_$]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")

_CONTENT_TYPES = (
    (re.compile(r"(Tab|TS)", re.I), "text/tab-separated-values; charset=UTF-8"),
    (re.compile(r"CSVWithNames", re.I), "text/csv; charset=UTF-8; header=present"),
    (re.compile(r"CSV", re.I), "text/csv; charset=UTF-8; header=absent"),
    (re.compile(r"JSON\w*EachRow|JSONLines|NDJSON", re.I), "application/x-ndjson; charset=UTF-8"),
    (re.compile(r"JSON", re.I), "application/json; charset=UTF-8"),
    (re.compile(r"XML\Z", re.I), "application/xml; charset=UTF-8"),
    (re.compile(r"Markdown|MD\Z", re.I), "text/markdown; charset=UTF-8"),
    (
        re.compile(r"Native|RowBinary|Parquet|Arrow|ORC|Avro|MsgPack|BSON|Protobuf|Npy", re.I),
        "application/octet-stream",
    ),
)


class ClickHouseError(RuntimeError):
    """An error a client is told about; `text` is ClickHouse's own, beginning with its code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def status(self) -> int:
        """The HTTP status ClickHouse answers this code with."""
        return _STATUS_OF_CODE.get(self.code, 500)


def refusal(code: Code, message: str) -> ClickHouseError:
    """An error of the HTTP front itself, worded the way ClickHouse words its own."""
    text = f"Code: {code}. DB::Exception: {message.rstrip('.')}. ({code.name})"
    return ClickHouseError(code, text)


@dataclass(frozen=True)
class Options:
    """What the URL and the headers of a request ask for."""

    query: str = ""
    database: str = ""
    default_format: str = "TabSeparated"
    session_id: str = ""
    session_timeout: int = 60  # seconds
    session_check: bool = False
    close_session: bool = False
    wait_end_of_query: bool = False
    is_reader: bool = False  # the read-only user asks
    read_only: bool = False  # not a setting of the engine here: a session could not undo it
    compress_response: bool = False
    compress_blocks: bool = False  # see blocks.py
    shows_progress: bool = False
    parameters: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


def read_options(params: Mapping[str, str], headers: Mapping[str, str]) -> Options:
    """Sort the parameters of a URL or form: for the interface, for the query, settings.

    Raises:
        ClickHouseError: a malformed session timeout, or name of a setting or parameter, or a feature that is not here.
    """
    output_format = (
        params.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated"
    )
    if not _NAME.match(output_format):
        raise refusal(Code.UNKNOWN_FORMAT, f"Unknown format {output_format}")
    if (role := params.get("role", OWNER_ROLE)) != OWNER_ROLE:
        raise refusal(Code.UNKNOWN_ROLE, f"There is no role `{role}` in user directories")
    return Options(
        query=params.get("query", ""),
        database=params.get("database") or headers.get("x-clickhouse-database", ""),
        default_format=output_format,
        session_id=params.get("session_id", ""),
        session_timeout=_session_timeout(params.get("session_timeout", "60")),
        session_check=_is_set(params, "session_check"),
        close_session=_is_set(params, "close_session"),
        wait_end_of_query=_is_set(params, "wait_end_of_query"),
        read_only=params.get("readonly", "0") != "0",
        compress_response=_is_set(params, "enable_http_compression"),
        compress_blocks=_is_set(params, "compress"),
        shows_progress=_is_set(params, "send_progress_in_http_headers"),
        parameters=_parameters(params),
        settings=_settings(params),
    )


def _is_set(params: Mapping[str, str], name: str) -> bool:
    return params.get(name, "0") in ("1", "true")


def _session_timeout(text: str) -> int:
    # No more digits than any real timeout has: Python refuses to read thousands of them.
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise refusal(
            Code.INVALID_SESSION_TIMEOUT,
            f"Invalid session timeout: '{text}'.",
        )
    if int(text) > 3600:
        raise refusal(
            Code.INVALID_SESSION_TIMEOUT,
            f"Session timeout '{text}' is larger than max_session_timeout: 3600.",
        )
    return int(text)


def _parameters(params: Mapping[str, str]) -> dict[str, str]:
    parameters = {
        name.removeprefix("param_"): value
        for name, value in params.items()
        if name.startswith("param_")
    }
    for name in parameters:
        if not _PARAMETER.fullmatch(name):
            raise refusal(Code.BAD_ARGUMENTS, f"Invalid name of a query parameter: '{name}'")
    return parameters


def _settings(params: Mapping[str, str]) -> dict[str, str]:
    settings = {
        name: value
        for name, value in params.items()
        if name not in _RESERVED
        and not name.startswith(_RESERVED_PREFIXES)
        and (name, value) not in _NOT_OF_SESSIONS
    }
    for name in settings:
        if not _NAME.match(name):
            raise refusal(Code.UNKNOWN_SETTING, f"Unknown setting '{name}'.")
    return settings


def credentials(params: Mapping[str, str], headers: Mapping[str, str]) -> tuple[str, str]:
    """User and password of a request: X-ClickHouse-User and -Key, basic auth, or the URL's."""
    if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
        return headers.get("x-clickhouse-user", "default"), headers.get("x-clickhouse-key", "")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
        except ValueError:  # no base64, or no text; also a header that is not ASCII
            return "", ""
        return user, password
    return params.get("user", "default"), params.get("password", "")


def url_parameters(query_string: bytes) -> dict[str, str]:
    """The parameters of a URL; the query may be of any bytes, as SQL may, kept as surrogates.

    Raises:
        ClickHouseError: another parameter is not UTF-8 text, or there are more than 1,000 (36).
    """
    if query_string.count(b"&") >= _MAX_FIELDS:
        raise refusal(Code.BAD_ARGUMENTS, f"The URL has more than {_MAX_FIELDS} parameters")
    pairs = parse_qsl(
        query_string.decode("latin-1"), keep_blank_values=True, errors="surrogateescape"
    )
    for name, value in pairs:
        try:
            (name + (value if name != "query" else "")).encode()
        except UnicodeEncodeError:
            raise refusal(Code.BAD_ARGUMENTS, "A parameter of the URL is not UTF-8 text") from None
    return dict(pairs)


def query_id(params: Mapping[str, str]) -> str:
    """The id a client gave its query, if a header can carry it, or else a new one."""
    given = params.get("query_id", "").strip()  # blanks at its ends are not allowed in a header
    return given if given.isascii() and given.isprintable() and given else str(uuid.uuid4())


def content_type(output_format: str) -> str:
    """The Content-Type ClickHouse sends with an output format."""
    for pattern, kind in _CONTENT_TYPES:
        if pattern.match(output_format):
            return kind
    return "text/plain; charset=UTF-8"


def result_headers(output_format: str) -> dict[str, str]:
    """What a result's headers say of its format."""
    return {"Content-Type": content_type(output_format), "X-ClickHouse-Format": output_format}


def chosen_encoding(accept_encoding: str, offered: Iterable[str]) -> str | None:
    """The first encoding of `offered` that the client accepts; None for no compression."""
    accepted = set()
    for part in accept_encoding.lower().split(","):
        name, _, weight = part.partition(";")
        if not _NOT_AT_ALL.match(weight.replace(" ", "")):
            accepted.add(name.strip())
    return next((encoding for encoding in offered if encoding in accepted), None)


def exception_block(text: str, tag: str) -> bytes:
    """What ends a result that had begun when the query failed; the tag was sent in a header."""
    message = text.encode()
    return b"\r\n__exception__\r\n%b\r\n%b\n%d %b\r\n__exception__\r\n" % (
        tag.encode(),
        message,
        len(message) + 1,
        tag.encode(),
    )


def summary_header(outcome: Mapping[str, int], elapsed_s: float) -> str:
    """The X-ClickHouse-Summary header; numbers are strings in it, time is in nanoseconds."""
    names = ("read_rows", "read_bytes", "written_rows", "written_bytes", "result_rows")
    totals = {name: str(outcome.get(name, 0)) for name in (*names, "result_bytes")}
    return json.dumps({**totals, "elapsed_ns": str(int(elapsed_s * 1e9))}, separators=(",", ":"))
