"""Crash tests: the pipeline and its ClickHouse are killed with SIGKILL, again and again, while a simulated Polymarket
moves on; afterwards nothing may be lost, doubled or wrong.

`python -m chaos` runs them. Read `seams.py` for where a process is killed, `schedule.py` for when, `harness.py` for
what happens around a kill and `verdict.py` for what is compared in the end.
"""
