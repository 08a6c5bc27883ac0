"""What Gamma's reader asks ClickHouse about what has landed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ingest.sources.desk import Landed
from ingest.sources.gamma.entities import Version
from ingest.tables import TABLES

MOST_TOKENS = 400


def known_versions(landed: Landed) -> Callable[[str, Sequence[str]], dict[str, Version]]:
    """A function that gives the current version by id, for those ids that are stored in a table."""

    def versions(table: str, ids: Sequence[str]) -> dict[str, Version]:
        query = current_versions_sql(f"{{raw}}.{table}", TABLES[table].id_column)
        return {key: Version(*version) for key, *version in landed.rows(query, {"ids": list(ids)})}

    return versions


def known_open(landed: Landed) -> Callable[[str], list[str]]:
    """A function that gives the ids of a table whose current version is open."""

    def ids(table: str) -> list[str]:
        return [
            key for (key,) in landed.rows(open_ids_sql(f"{{raw}}.{table}", TABLES[table].id_column))
        ]

    return ids


def open_ids_sql(table: str, key: str) -> str:
    """Select the ids whose current version is open."""
    return f"select {key} from {table} group by {key} having not argMax(closed, fetched_at)"


def current_versions_sql(table: str, key: str) -> str:
    """Select the id, content hash, `fetched_at` and `updated_at` (microseconds) of the current version of each of `ids`."""
    return f"""
        select
            {key},
            argMax(content_hash, fetched_at),
            toUnixTimestamp64Micro(max(fetched_at)),
            argMax(tuple(toUnixTimestamp64Micro(updated_at)), fetched_at).1
        from {table}
        where {key} in {{ids:Array(String)}}
        group by {key}
    """


def unknown_tokens(
    landed: Landed, most: int = MOST_TOKENS, *, positions: bool = False
) -> list[str]:
    """Tokens that were traded but whose market has not landed, busiest first, as decimal strings.

    Args:
        positions: those of ExchangeV3, combos aside, of which Gamma has no market; else all others.
    """
    wanted = "module not in ('', 'combo')" if positions else "module = ''"
    rows = landed.rows(
        f"select token_id from {{models}}.unknown_tokens where {wanted}"
        f" order by trades desc, token_id limit {most}"
    )
    return [token for (token,) in rows]
