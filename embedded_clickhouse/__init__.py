"""The embedded ClickHouse: the chDB engine behind the ClickHouse HTTP interface, on loopback.

It lets every client of a ClickHouse server (clickhouse-connect, dbt, curl, BI tools) work without
one. `running` starts it on demand and `serve` keeps it up; both leave one process in charge of a
data folder. Read `app.py` for what happens to a request, `engine.py` for how chDB is driven.
"""

from embedded_clickhouse.launcher import Endpoint, running
from embedded_clickhouse.ownership import EmbeddedError
from embedded_clickhouse.server import Access, serve

__all__ = ["Access", "EmbeddedError", "Endpoint", "running", "serve"]
