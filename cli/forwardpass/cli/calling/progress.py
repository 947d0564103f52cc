"""The progress of a file, shown on stderr if it is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from forwardpass.cli.rows import Source


@contextmanager
def reading_bar(title: str, source: Source) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the rows answered; on a terminal it shows a bar.

    The progress comes from the source, which knows the total even if rows are not counted.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(title, total=None, rows=0)

        def advance(rows: int) -> None:
            done, total = source.progress()
            bars.update(bar, completed=done, total=total, rows=rows)

        yield advance
