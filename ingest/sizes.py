"""How much to ask an upstream for at once: page sizes that adapt to what it can answer."""

from __future__ import annotations


class AdaptiveSize:
    """How much to ask for: halved when it was too much, doubled after a run of successes.

    Args:
        initial, largest, smallest: sizes.
        patience: successes after a cut before it grows again, so that an upstream with a hard limit
            is not asked for too much at every second request.
    """

    def __init__(
        self, initial: int, largest: int, *, smallest: int = 1, patience: int = 20
    ) -> None:
        self.value = min(initial, largest)
        self._smallest, self.largest = min(smallest, self.value), largest
        self._patience, self._good = patience, patience

    def shrink(self, asked: int, by: int = 2) -> bool:
        """Ask for half of `asked` (or less, `by`) from now on; False if it cannot get smaller."""
        if asked <= self._smallest:
            return False
        self.value = max(asked // by, self._smallest)
        self._good = 0
        return True

    def cap(self, largest: int) -> None:
        """Never ask for more than `largest` from now on: the upstream has named its limit."""
        self.largest = max(largest, 1)
        self._smallest = min(self._smallest, self.largest)
        self.value = min(self.value, self.largest)
        self._good = 0

    def succeeded(self) -> None:
        """Count a success and grow if there were enough of them."""
        self._good += 1
        if self._good >= self._patience:
            self.value = min(self.value * 2, self.largest)
