"""The chain: fills of the exchange contracts, by JSON-RPC nodes or an SQD Portal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlt.extract import DltSource

    from ingest.sources.polygon.chain import Endpoints


def polygon(endpoints: Endpoints | None = None, **options: Any) -> DltSource:
    """Fills of the chain as a plain dlt source: `dlt.pipeline(destination="duckdb").run(polygon())`.

    Args:
        endpoints: who is asked; None: the public SQD Portal, and public nodes behind it.
        options: see `ingest.sources.polygon.reader.streams`.

    Raises:
        IngestError: while dlt extracts; what the endpoints did wrong.
    """
    from ingest.land.reading import as_dlt_source
    from ingest.progress import Progress
    from ingest.sources.polygon.chain import SOURCE
    from ingest.sources.polygon.endpoints import public_endpoints
    from ingest.sources.polygon.reader import streams

    progress = options.pop("progress", None) or Progress()
    parts = streams(endpoints or public_endpoints(), progress=progress, **options)
    return as_dlt_source(SOURCE, parts, progress)
