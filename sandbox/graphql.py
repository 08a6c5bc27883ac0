"""A parser for the GraphQL query documents that clients send to a subgraph.

It covers one anonymous or named query with variables, aliases, arguments and nested selections;
fragments, directives and mutations are refused with an error, never half-understood. Grammar:
GraphQL specification, October 2021.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_TOKEN = re.compile(
    r"""(?P<skip>[\s,\ufeff]+|\#[^\n\r]*)
      | (?P<string>"(?:\\.|[^"\\\n])*")
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
      | (?P<name>[_A-Za-z]\w*)
      | (?P<punct>\.\.\.|[!$():=@\[\]{}|&])""",
    re.VERBOSE | re.ASCII,
)


class QueryError(Exception):
    """A query that cannot be answered; the message goes to the client."""


class EnumValue(str):
    """A bare name used as a value, such as `timestamp` in `orderBy: timestamp`."""


@dataclass(slots=True)
class Selection:
    """One requested field: its name in the answer, its arguments and what is wanted of it."""

    name: str
    alias: str
    arguments: dict[str, Any] = field(default_factory=dict)
    selections: list[Selection] = field(default_factory=list)


def parse_query(text: str, variables: Mapping[str, Any] | None = None) -> list[Selection]:
    """The fields a query document asks for at the top level, variables filled in.

    Raises:
        QueryError: the text is not a query, or a required variable is missing.
    """
    return _Parser(text, dict(variables or {})).document()


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise QueryError(f"query parse error: Unexpected `{text[position]}`")
        if match.lastgroup != "skip":
            tokens.append((match.lastgroup or "", match.group()))
        position = match.end()
    return [*tokens, ("end", "end of input")]


class _Parser:
    def __init__(self, text: str, variables: dict[str, Any]) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._variables = variables
        self._declared: set[str] = set()

    def document(self) -> list[Selection]:
        kind, text = self._peek()
        if kind == "name":
            self._next()
            if text != "query":
                raise QueryError(f"query parse error: Unexpected `{text}`, only queries are served")
            if self._peek()[0] == "name":
                self._next()
            if self._accept("("):
                while not self._accept(")"):
                    self._variable_definition()
        selections = self._selection_set()
        if self._peek()[0] != "end":
            raise QueryError(f"query parse error: Unexpected `{self._peek()[1]}`")
        return selections

    def _variable_definition(self) -> None:
        self._expect("$")
        name = self._name()
        self._expect(":")
        required = self._type()
        if self._accept("="):
            self._variables.setdefault(name, self._value())
        elif required and self._variables.get(name) is None:
            raise QueryError(f"Missing value for non-null variable `{name}`")
        self._declared.add(name)

    def _type(self) -> bool:
        """Skip a type; returns whether it is non-null."""
        if self._accept("["):
            self._type()
            self._expect("]")
        else:
            self._name()
        return self._accept("!")

    def _selection_set(self) -> list[Selection]:
        self._expect("{")
        selections = []
        while not self._accept("}"):
            selections.append(self._selection())
        if not selections:
            raise QueryError("query parse error: Unexpected `}`, a selection cannot be empty")
        return selections

    def _selection(self) -> Selection:
        alias = name = self._name()
        if self._accept(":"):
            name = self._name()
        selection = Selection(name, alias)
        if self._accept("("):
            while not self._accept(")"):
                argument = self._name()
                self._expect(":")
                selection.arguments[argument] = self._value()
        if self._peek()[1] == "{":
            selection.selections = self._selection_set()
        return selection

    def _value(self) -> Any:
        kind, text = self._next()
        if kind == "string":
            return json.loads(text)
        if kind == "number":
            return json.loads(text)
        if kind == "name":
            constants = {"true": True, "false": False, "null": None}
            return constants[text] if text in constants else EnumValue(text)
        if text == "$":
            name = self._name()
            if name not in self._declared:
                raise QueryError(f"Variable `${name}` is not defined")
            return self._variables.get(name)
        if text == "[":
            items = []
            while not self._accept("]"):
                items.append(self._value())
            return items
        if text == "{":
            members = {}
            while not self._accept("}"):
                name = self._name()
                self._expect(":")
                members[name] = self._value()
            return members
        raise QueryError(f"query parse error: Unexpected `{text}`")

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at]

    def _next(self) -> tuple[str, str]:
        token = self._tokens[self._at]
        if token[0] == "end":
            raise QueryError("query parse error: Unexpected end of input")
        self._at += 1
        return token

    def _accept(self, punct: str) -> bool:
        if self._peek() == ("punct", punct):
            self._at += 1
            return True
        return False

    def _expect(self, punct: str) -> None:
        if not self._accept(punct):
            raise QueryError(f"query parse error: Expected `{punct}`, found `{self._peek()[1]}`")

    def _name(self) -> str:
        kind, text = self._peek()
        if kind != "name":
            raise QueryError(f"query parse error: Expected a name, found `{text}`")
        self._at += 1
        return text
