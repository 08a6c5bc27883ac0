"""Which time is loaded: the seconds of which every fill has been read, of every generation that traded then.

Two records say so. `backfill_slices` lists the slices that are done. The ledger's loads name their first and last
row, and `load_packages` their dlt pipeline: the loads of one source's cycles follow each other without a gap.
"""

from __future__ import annotations

from collections.abc import Iterable

from ingest.contracts import GENESIS, V1
from ingest.sources.goldsky.source import GOLDSKY
from ingest.sources.polygon.source import POLYGON
from pipeline.jobs.slicing import generations, whole_seconds
from pipeline.settings import Settings
from pipeline.warehouse.run import Run
from pipeline.warehouse.slices import SliceBooks

Span = tuple[int, int]  # unix seconds, half-open
# A generation that a database has, from a source: goldsky has V1 only.
Loaded = dict[str, list[Span]]


def merge(spans: Iterable[Span]) -> list[Span]:
    """The same seconds as disjoint spans in order; spans that touch become one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        elif start < end:
            merged.append((start, end))
    return merged


def subtract(whole: Span, spans: Iterable[Span]) -> list[Span]:
    """The seconds of `whole` that lie in none of the spans, in order."""
    left, position = [], whole[0]
    for start, end in merge(spans):
        if position < min(start, whole[1]):
            left.append((position, min(start, whole[1])))
        position = max(position, end)
    if position < whole[1]:
        left.append((position, whole[1]))
    return left


def not_loaded(whole: Span, loaded: Loaded, settings: Settings) -> list[Span]:
    """The seconds of `whole` of which a generation is not loaded: V1 until the archive ends, the chain's from its start.

    Args:
        loaded: spans by generation.
    """
    archive_end = whole_seconds(settings.goldsky_horizon) + 1
    gaps: list[Span] = []
    for version in {V1, *settings.polygon_versions.split(",")}:
        last = archive_end if version == V1 else whole[1]
        due = (max(whole[0], GENESIS[version]), min(whole[1], last))
        gaps += subtract(due, loaded.get(version, []))
    return merge(gaps)


def loaded_spans(run: Run) -> Loaded:
    """What slices and cycles have read, by generation."""
    books = SliceBooks(run.client, run.settings.raw_database)
    slices = books.in_state("done") if books.exist() else []
    loaded: Loaded = {version: [] for version in GENESIS}
    for part in slices:
        for version in generations(part):
            loaded[version].append((part.start, part.end))
    of_cycles, of_unknown = _loads(run)
    chain = run.settings.polygon_versions.split(",")
    for pipeline, span in of_cycles.items():
        for version in [V1] if pipeline == GOLDSKY.pipeline else chain:
            loaded[version].append(span)
    for spans in loaded.values():
        spans += of_unknown
    return loaded


def _loads(run: Run) -> tuple[dict[str, Span], list[Span]]:
    """The span that the cycles of each pipeline have read, and the spans of loads of unknown origin.

    The origin of loads before the first row of `load_packages` is unknown; an earlier version made them.
    """
    raw = run.settings.raw_database
    loads = (
        f"select load_id, toUnixTimestamp(from_at) as first, toUnixTimestamp(to_at) + 1 as after"
        f" from {raw}.loads final"
        " where table_name = 'order_filled' and not is_rebuild and loaded_rows > 0"
    )
    of_cycles = run.client.query(
        f"select pipeline, min(first), max(after) from ({loads}) as loads"
        f" inner join (select distinct load_id, pipeline from {raw}.load_packages) as packages"
        " using (load_id)"
        " where pipeline in {pipelines:Array(String)} group by pipeline",
        parameters={"pipelines": [POLYGON.pipeline, GOLDSKY.pipeline]},
    ).result_rows
    of_unknown = run.client.query(
        f"select first, after from ({loads})"
        f" where load_id < (select if(count() = 0, toUInt64(-1), min(load_id)) from {raw}.load_packages)"
    ).result_rows
    return {pipeline: (first, after) for pipeline, first, after in of_cycles}, [
        (first, after) for first, after in of_unknown
    ]
