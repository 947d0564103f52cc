"""Tables of figures as Markdown, and their places in the documents."""

from collections.abc import Sequence
from pathlib import Path


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_table(document: Path, program: str, text: str) -> None:
    """Replace the table that a program printed the last time."""
    begin, end = f"<!-- table: python -m {program} -->", "<!-- end of table -->"
    before, rest = document.read_text().split(begin)
    _, after = rest.split(end, 1)
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}")
