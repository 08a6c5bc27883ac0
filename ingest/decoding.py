"""Whose turn it is to decode.

Threads wait for their upstreams side by side, but turning bodies into columns is Python's own work, of which there is
only one at a time. Threads that do it at once take the interpreter from each other in the middle: 4 of them, measured
on pages of the archive from memory, need 12 CPU seconds for a million rows, and 8 if they take turns.
"""

from __future__ import annotations

import threading

DECODING = threading.RLock()
