"""`make bench`: how fast the pipeline is, against what ClickHouse alone could do and what others do.

Each part is a module with one public function that returns figures; `__main__.py` runs them, `report.py` writes
BENCHMARKS.md. Upstreams are pages rendered beforehand (`pages.py`), so that the sandbox is not what is measured.
"""
