"""The progress of a long prediction: reported to a callback, or shown on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

Report = Callable[[int, int], None]
"""A function that is called with the rows that are done and the rows in all."""


@contextmanager
def reporting(progress: bool | Report, title: str) -> Iterator[Report]:
    """Yield the function to report to: the callback, or that of a bar while the block runs.

    The bar needs a terminal at stderr, and rich. A notebook shows a line of text instead, as rich
    draws nothing there without widgets; otherwise nothing is shown.
    """
    if callable(progress):
        yield progress
        return
    if progress and _in_notebook():
        try:
            yield partial(_write_line, title)
        finally:
            sys.stderr.write("\n")
        return
    if progress and sys.stderr is not None and sys.stderr.isatty():
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


def _in_notebook() -> bool:
    """Whether stderr is a notebook's: that of Jupyter's kernel, which is not a terminal."""
    return type(sys.stderr).__module__.partition(".")[0] == "ipykernel"


def _write_line(title: str, done: int, rows: int) -> None:
    # A carriage return overwrites the line there, too.
    sys.stderr.write(f"\r{title}: {done:,} of {rows:,} rows ({done / max(rows, 1):.0%})")
    sys.stderr.flush()
