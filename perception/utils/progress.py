"""How far a command is: a bar on a terminal, a line now and then elsewhere, the rate at the end; on standard error."""
import sys
import time

from tqdm import tqdm

EVERY = 10.0  # seconds between two lines where there is no terminal


class Progress:
    """Counts what is done from now on.

    Args:
        unit: what is counted, such as `'scan'`.
        shown: whether anything is written.
    """

    def __init__(self, unit: str, shown: bool = True) -> None:
        self.unit, self.shown, self.done, self.start = unit, shown, 0, time.perf_counter()
        self._next = self.start + EVERY
        self._bar = tqdm(unit=unit, file=sys.stderr, leave=False, disable=None if shown else True)

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        self._bar.update()
        if self.shown and self._bar.disable and time.perf_counter() >= self._next:
            self._next = time.perf_counter() + EVERY
            sys.stderr.write(f'{self}\n')

    def clear(self) -> None:
        """Make room for other output on the terminal."""
        self._bar.clear()

    def close(self) -> None:
        """Say how many were done, and how fast."""
        self._bar.close()
        if self.shown and self.done:
            sys.stderr.write(f'{self}\n')

    def __str__(self) -> str:
        rate = self.done / max(time.perf_counter() - self.start, 1e-9)
        return f'{self.done:,} {self.unit}{"s" * (self.done != 1)}, {rate:.3g} {self.unit}s/s'
