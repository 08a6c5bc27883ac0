"""The E and the L: reads Polymarket's upstreams and lands their records in ClickHouse through dlt.

Sources are under `ingest.sources`, `ingest.land.loader` runs one. Every source takes its parameters
explicitly; when to run which, and what the records mean, is left to others.
"""

import os

# dlt finds `.dlt/config.toml` only in the working directory, so what matters wherever a run starts
# is said here as well, before dlt is imported: no usage reports over the network, and no tracebacks
# of failures that are raised anyway.
os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")
os.environ.setdefault("RUNTIME__LOG_LEVEL", "CRITICAL")
