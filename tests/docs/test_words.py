"""Pages can be read by themselves: tables have heads, and figures are those of their source."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
HEAD = re.compile(r"^\|(.*)\|\n\|(?: *-+ *\|)+$", re.MULTILINE)
LINK = re.compile(r"\]\((?:docs/)?([\w/.]+\.md)(?:#[^)]*)?\)$")
FIGURE = re.compile(r"\d[\d,.]*(?:e-\d+)?(?<![,.])")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_says_what_its_columns_are(page: Path) -> None:
    for head in HEAD.findall(page.read_text()):
        assert all(cell.strip() for cell in head.split("|")), head


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        ("README.md", "## What makes it different"),
        ("docs/architecture.md", "## Decisions, with their measurements"),
    ],
)
def test_every_figure_is_that_of_the_page_that_is_named_for_it(page: str, heading: str) -> None:
    section = (ROOT / page).read_text().split(heading)[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"][2:]
    compared = 0
    for *_, measured, source in rows:
        link = LINK.search(source)
        if link is None:
            continue
        there = set(FIGURE.findall((ROOT / "docs" / link[1]).read_text()))
        figures = FIGURE.findall(measured)
        assert [figure for figure in figures if figure not in there] == [], (measured, link[1])
        compared += len(figures)
    assert compared > 10
