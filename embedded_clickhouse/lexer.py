"""The engine's lexer, told again: where words, names, strings, numbers and comments begin and end.

Facts: src/Parsers/Lexer.cpp and `skipWhitespacesUTF8` of ClickHouse 26. Comments nest, Unicode has
blanks, ‘…’ is a string, “…” a name, − a minus, and what follows `$tag$` is text up to the next
`$tag$`. A test compares this module with the engine. It works on bytes, in time and memory that
grow with the text and no faster.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

_DIGITS = rb"[0-9](?:[0-9]|_(?=[0-9]))*+"
_HEX = rb"[0-9A-Fa-f](?:[0-9A-Fa-f]|_(?=[0-9A-Fa-f]))*+"
_EXPONENT = rb"(?:(?=.)(?:[+-](?=.))?(?:%b)?)" % _DIGITS
_TOKEN = re.compile(
    rb"""
      (?P<space>   (?: [ \t\n\r\f\v]++ | \xc2[\x85\xa0] | \xe1\xa0\x8e | \xe2\x80[\x80-\x8d\xa8\xa9\xaf]
                     | \xe2\x81[\x9f\xa0] | \xe3\x80\x80 | \xef\xbb\xbf )++
                 | (?: -- | // | \#[\ !] ) [^\n]*+ )
    | (?P<comment> /\* )
    | (?P<string>  '(?:[^'\\]++|\\.|'')*+(?P<string_end>'|\\?\Z)
                 | [xX]'(?=.)[0-9A-Fa-f]*+(?P<hex_end>'|.*+) | [bB]'(?=.)[01]*+(?P<bin_end>'|.*+) )
    | (?P<quoted>  `(?:[^`\\]++|\\.|``)*+(?P<back_end>`|\\?\Z) | "(?:[^"\\]++|\\.|"")*+(?P<double_end>"|\\?\Z) )
    | (?P<curly>   \xe2\x80[\x98\x9c](?=...) )
    | (?P<dollar>  \$ )
    | (?P<word>    [A-Za-z_][A-Za-z0-9_$]*+ )
    | (?P<number>  [0-9] )
    | (?P<dot>     \. )
    | (?P<mark>    \xe2\x88\x92 | [-+*/%=!<>?^:|@()\[\]{},;] )
    | (?P<error>   . )
    """,
    re.VERBOSE | re.DOTALL,
)
_TAIL = rb"(?P<tail>[A-Za-z0-9_]*+)"  # makes it a word
_NUMBER = re.compile(
    rb"(?:0[xX](?=[0-9A-Fa-f])%(hex)b(?:\.(?:%(hex)b)?)?(?:[pP]%(exponent)b)?"
    rb"|(?:0[bB](?=[01]))?%(digits)b(?:\.(?:%(digits)b)?)?(?:[eE]%(exponent)b)?)%(tail)b"
    % {b"hex": _HEX, b"digits": _DIGITS, b"exponent": _EXPONENT, b"tail": _TAIL},
    re.DOTALL,
)
_WHOLE_NUMBER = re.compile(_DIGITS + _TAIL)
_FRACTION = re.compile(rb"\.%b(?:[eE]%b)?" % (_DIGITS, _EXPONENT), re.DOTALL)
_WORD = re.compile(rb"[A-Za-z0-9_]++")
_DOLLAR_WORD = re.compile(rb"\$[A-Za-z0-9_$]*+")
_COMMENT_MARK = re.compile(rb"/\*|\*/")
_OPENING, _CLOSING = (b"(", b"[", b"{"), (b")", b"]", b"}")
_NAMELIKE = ("word", "quoted", "number")
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)


class Token(NamedTuple):
    """A lexical element other than space and comments; `depth` counts the brackets around it.

    An `error` is what the engine takes for none: it refuses the statement.
    """

    kind: str  # word, quoted, string, heredoc, number, mark or error
    text: bytes
    start: int
    end: int
    depth: int

    def is_word(self, word: bytes) -> bool:
        return self.kind == "word" and self.text.upper() == word.upper()

    @property
    def name(self) -> bytes:
        """The identifier that the token is, without quotes and escapes; empty if it is none."""
        if self.kind == "word":
            return self.text
        if self.kind != "quoted":
            return b""
        if self.text[0] == 0xE2:
            return self.text[3:-3]
        quote = self.text[:1]
        inner = self.text[1:-1].replace(quote * 2, quote)
        return _ESCAPE.sub(
            lambda found: bytes([int(found[1], 16)]) if found[1] else found[2], inner
        )


class _Dollars:
    """Finds the ends of heredocs: what stands between two `$` in a row, dollars included, is looked up."""

    def __init__(self, sql: bytes) -> None:
        self._at = [found.start() for found in re.finditer(rb"\$", sql)]
        self._same: dict[bytes, list[int]] = {}
        self._tags = []
        for number, (start, end) in enumerate(zip(self._at, self._at[1:], strict=False)):
            tag = sql[start : end + 1]
            self._tags.append(tag)
            self._same.setdefault(tag, []).append(number)

    def end(self, start: int) -> int:
        """Where the heredoc that starts here ends; 0 if there is none."""
        number = bisect_left(self._at, start)
        if number >= len(self._tags):
            return 0
        tag = self._tags[number]
        same = self._same[tag]
        following = bisect_left(same, number + 2)  # `$a$` and its end share no dollar
        return self._at[same[following]] + len(tag) if following < len(same) else 0


def tokens(sql: bytes) -> Iterator[Token]:
    """Yield the tokens of `sql`. An unfinished string or comment is an error up to the end of the text."""
    depth, at = 0, 0
    dollars: _Dollars | None = None
    before = ("", b"")
    while at < len(sql):
        found = _TOKEN.match(sql, at)
        start, end, kind = at, found.end(), _kind(found)
        if kind == "space":
            at = end
            continue
        if kind == "comment":
            if at := _comment_end(sql, start):
                continue
            kind, end = "error", len(sql)
        elif kind == "curly":
            kind, end = _curly(sql, start)
        elif kind == "dollar":
            dollars = dollars or _Dollars(sql)
            kind, end = _dollar(sql, start, dollars)
        elif kind in ("dot", "number"):
            kind, end = _numeric(sql, start, before)
        text, at = sql[start:end], end
        if kind == "mark" and text in _CLOSING:
            depth = max(0, depth - 1)
        yield Token(kind, text, start, end, depth)
        if kind == "mark" and text in _OPENING:
            depth += 1
        before = kind, text


def _kind(found: re.Match[bytes]) -> str:
    """The kind of what was found; an `error` for a string or a name that is not closed."""
    kind = found.lastgroup
    if kind == "string":
        closed = found["string_end"] or found["hex_end"] or found["bin_end"]
        return kind if closed == b"'" else "error"
    if kind == "quoted":
        return kind if (found["back_end"] or found["double_end"]) in (b"`", b'"') else "error"
    return kind


def _comment_end(sql: bytes, start: int) -> int:
    """Where a comment that may hold others ends; 0 if it does not."""
    depth = 0
    for mark in _COMMENT_MARK.finditer(sql, start):
        depth += 1 if mark[0] == b"/*" else -1
        if depth == 0:
            return mark.end()
    return 0


def _curly(sql: bytes, start: int) -> tuple[str, int]:
    """Kind and end of what is quoted as in print; nothing is escaped in it."""
    is_string = sql[start + 2] == 0x98
    found = sql.find(b"\xe2\x80\x99" if is_string else b"\xe2\x80\x9d", start + 3)
    if found < 0:
        return "error", len(sql)
    return ("string" if is_string else "quoted"), found + 3


def _dollar(sql: bytes, start: int, dollars: _Dollars) -> tuple[str, int]:
    if end := dollars.end(start):
        return "heredoc", end
    end = _DOLLAR_WORD.match(sql, start).end()
    is_alone = not _WORD.match(sql, start + 1)
    return ("mark", start + 1) if is_alone else ("word", end)


def _numeric(sql: bytes, start: int, before: tuple[str, bytes]) -> tuple[str, int]:
    """Kind and end of a number, of a word that begins as one, or of a dot."""
    if sql[start : start + 1] == b".":
        is_dot = before[0] in _NAMELIKE or before[1] in (b")", b"]")
        fraction = None if is_dot else _FRACTION.match(sql, start)
        return ("number", fraction.end()) if fraction else ("mark", start + 1)
    pattern = _WHOLE_NUMBER if before == ("mark", b".") else _NUMBER  # x.1.1 is x . 1 . 1
    found = pattern.match(sql, start)
    if not found["tail"]:
        return "number", found.end()
    return ("word" if _WORD.fullmatch(found[0]) else "error"), found.end()
