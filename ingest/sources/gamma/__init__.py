"""Gamma, Polymarket's catalogue of markets and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlt.extract import DltSource

PUBLIC_URL = "https://gamma-api.polymarket.com"


def gamma(url: str = PUBLIC_URL, **options: Any) -> DltSource:
    """Markets and events as a plain dlt source: `dlt.pipeline(destination="duckdb").run(gamma())`.

    Args:
        url, options: see `ingest.sources.gamma.reader.streams`.

    Raises:
        IngestError: while dlt extracts; what Gamma did wrong.
    """
    from ingest.land.reading import as_dlt_source
    from ingest.progress import Progress
    from ingest.sources.gamma.reader import SOURCE, streams

    progress = options.pop("progress", None) or Progress()
    return as_dlt_source(SOURCE, streams(url, progress=progress, **options), progress)
