"""Goldsky's public subgraph: the archive of V1 fills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlt.extract import DltSource


def goldsky(url: str = "", **options: Any) -> DltSource:
    """V1 fills as a plain dlt source: `dlt.pipeline(destination="duckdb").run(goldsky(start=…))`.

    Args:
        url: GraphQL endpoint; empty: the public one.
        options: see `ingest.sources.goldsky.reader.streams`.

    Raises:
        IngestError: while dlt extracts; what the archive did wrong.
    """
    from ingest.land.reading import as_dlt_source
    from ingest.progress import Progress
    from ingest.sources.goldsky.reader import SOURCE, streams
    from ingest.sources.goldsky.settings import GOLDSKY_PUBLIC_URL

    progress = options.pop("progress", None) or Progress()
    parts = streams(url or GOLDSKY_PUBLIC_URL, progress=progress, **options)
    return as_dlt_source(SOURCE, parts, progress)
