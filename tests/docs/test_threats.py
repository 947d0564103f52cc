"""The threat model names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[tuple[str, str, str]]:
    """Threat, what holds it, the cell with its tests."""
    page = (ROOT / "docs" / "security.md").read_text()
    table = page[page.index("| threat |") :].split("\n\n", 1)[0].splitlines()[2:]
    cells = [line.strip("|").split("|") for line in table]
    return [(threat.strip(), held.strip(), tests.strip()) for threat, held, tests in cells]


def test_every_threat_names_what_holds_it_and_a_test() -> None:
    threats = [row for row in rows() if not row[0].startswith("**")]

    assert len(threats) > 20
    for threat, held, tests in threats:
        assert held, threat
        assert _TEST.findall(tests), threat


def test_every_test_that_is_named_exists() -> None:
    for _, _, tests in rows():
        for file, name in _TEST.findall(tests):
            assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
        # Nothing is named in a form that would escape the check.
        assert len(_TEST.findall(tests)) == tests.count("::")
