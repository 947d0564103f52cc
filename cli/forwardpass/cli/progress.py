"""How far a file is, on stderr, where somebody watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from forwardpass.cli.rows import Source


@contextmanager
def reading_bar(title: str, source: Source) -> Iterator[Callable[[int], None]]:
    """Give what is to be called with the rows answered; on a terminal alone it shows a bar.

    How far it is comes from the source, which knows how much there is where rows are not counted.
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
