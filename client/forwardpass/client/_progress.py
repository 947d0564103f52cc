"""How far a long prediction is: told to a callback, or shown where somebody watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int], None]
"""Called with the rows that are done and the rows in all."""


@contextmanager
def reporting(progress: bool | Report, title: str) -> Iterator[Report]:
    """Give what is to be told: the callback, or a bar while the block runs.

    The bar needs a terminal at stderr, and rich; without either nothing is shown.
    """
    if callable(progress):
        yield progress
        return
    if progress and sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.progress import Progress
        except ImportError:
            pass
        else:
            with Progress(console=Console(stderr=True), transient=True) as bars:
                bar = bars.add_task(title)
                yield lambda done, rows: bars.update(bar, completed=done, total=rows)
            return
    yield lambda *_: None
