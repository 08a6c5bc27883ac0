"""What a new version of the models means for the stores that an earlier one has filled: decided here, by pure functions.

A store is the table of an incremental model. Its shape (columns, engine, keys) is compared as ClickHouse describes it, its
rule as a hash of the SQL that would fill it from raw. A change of text that changes no row counts as a change of rule:
code cannot tell, and deriving again is harmless.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SETTLE_TAG = "settle_"
# Texts in quotes stay; comments and white space are one space.
NOISE = re.compile(r"('(?:[^'\\]|\\.|'')*')|(?:--[^\n]*|/\*.*?\*/|\s)+", re.DOTALL)


class Change(StrEnum):
    """What became of a store between two versions of the models."""

    UNCHANGED = "unchanged"
    NEW = "new"  # there was no such store
    ADDED = "columns added"  # the rows stay, and get values
    RULE = "rule changed"  # the same columns, other SQL
    RESHAPED = "key, engine or types changed"  # or a column is gone: no row can stay


@dataclass(frozen=True)
class Shape:
    """A table as ClickHouse describes it.

    Attributes:
        columns: types by name.
        engine: engine with its arguments.
        keys: sorting, primary and partition key.
    """

    columns: Mapping[str, str]
    engine: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Store:
    """A store as this version of the models wants it.

    Attributes:
        name: of the model and its table.
        landing_table: the landing table whose loads it settles.
        rule: hash of the SQL that fills it, and of all that it reads.
        select: that SQL.
        views: views that it reads, up to the next stores.
        node: the model as dbt compiled it.
    """

    name: str
    landing_table: str
    rule: str
    select: str
    views: tuple[str, ...]
    node: Any


def change_of(present: Shape | None, wanted: Shape, old_rule: str | None, rule: str) -> Change:
    """Decide what became of a store.

    Args:
        present: the table that is there; None: there is none.
        wanted: the table that this version would make.
        old_rule: the rule by which the present one was filled; None: not known, so it counts as another.
    """
    if present is None:
        return Change.NEW
    if (present.engine, present.keys) != (wanted.engine, wanted.keys):
        return Change.RESHAPED
    if any(wanted.columns.get(name) != kind for name, kind in present.columns.items()):
        return Change.RESHAPED
    if len(wanted.columns) > len(present.columns):
        return Change.ADDED
    return Change.UNCHANGED if old_rule == rule else Change.RULE


def stores_of(nodes: Sequence[Any]) -> list[Store]:
    """The stores among compiled models, each after those that it reads.

    Args:
        nodes: all models, compiled as for a full refresh.
    """
    by_id = {node.unique_id: node for node in nodes}
    rules: dict[str, str] = {}

    def rule(node: Any) -> str:
        if node.unique_id not in rules:
            settings = sorted(node.config.get("query_settings", {}).items())
            parents = [rule(by_id[each]) for each in _parents(node, by_id)]
            # Without the names of the databases, which a copy may have other than these.
            sql = re.sub(rf"`{node.schema}(_raw)?`", r"`\1`", without_noise(node.compiled_code))
            text = f"{sql}\0{settings}\0{sorted(parents)}"
            rules[node.unique_id] = hashlib.sha256(text.encode()).hexdigest()
        return rules[node.unique_id]

    for node in sorted(nodes, key=lambda node: node.name):
        rule(node)  # after those of its parents, so that `rules` is in order
    return [
        Store(
            name=node.alias,
            landing_table=tag_of(node),
            rule=rules[unique_id],
            select=node.compiled_code,
            views=tuple(sorted(_views(node, by_id))),
            node=node,
        )
        for unique_id in rules
        if tag_of(node := by_id[unique_id])
    ]


def tag_of(node: Any) -> str:
    """The landing table whose loads a model settles; empty if it is no store."""
    tag = next((tag for tag in node.tags if tag.startswith(SETTLE_TAG)), SETTLE_TAG)
    return tag.removeprefix(SETTLE_TAG)


def without_noise(sql: str) -> str:
    """SQL without comments, and with every white space outside of quotes as one space."""
    return NOISE.sub(lambda found: found[1] or " ", sql).strip()


def _parents(node: Any, by_id: Mapping[str, Any]) -> list[str]:
    return sorted(each for each in node.depends_on.nodes if each in by_id)


def _views(node: Any, by_id: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for parent in (by_id[each] for each in _parents(node, by_id)):
        if not tag_of(parent):
            found |= {parent.name} | _views(parent, by_id)
    return found
