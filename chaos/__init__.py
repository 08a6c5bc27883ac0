"""Crash tests: kills, pauses, wrong clocks and a bad network, again and again, while a simulated Polymarket moves on;
afterwards nothing may be lost, doubled or wrong.

`python -m chaos` runs them. Read `seams.py` for where something happens, `schedule.py` for what and when, `harness.py` for
the stage, `kills.py`, `pauses.py`, `clocks.py` and `network.py` for how, and `verdict.py` for what is compared in the end.
"""
