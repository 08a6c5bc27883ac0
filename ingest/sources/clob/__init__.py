"""Polymarket's central limit order book (CLOB): what outcome tokens are quoted at now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlt.extract import DltSource

PUBLIC_URL = "https://clob.polymarket.com"


def prices(url: str = PUBLIC_URL, tokens: Sequence[str] = (), **options: Any) -> DltSource:
    """Best prices as a plain dlt source: `dlt.pipeline(destination="duckdb").run(prices(tokens=[…]))`.

    Args:
        tokens: outcome tokens (decimal) to ask about; the CLOB has no list of the busiest ones.
        url, options: see `ingest.sources.clob.reader.streams`.

    Raises:
        IngestError: while dlt extracts; what the CLOB did wrong.
    """
    from ingest.land.reading import as_dlt_source
    from ingest.progress import Progress
    from ingest.sources.clob.reader import SOURCE, streams

    progress = options.pop("progress", None) or Progress()
    return as_dlt_source(
        SOURCE, streams(url, progress=progress, tokens=tokens, **options), progress
    )
