"""A class name means one thing in a package: whoever searches for it finds one class."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("package", ["proto", "models", "server", "client", "cli"])
def test_no_class_name_occurs_twice_in_a_package(package: str) -> None:
    names = Counter(
        node.name
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )

    assert names
    assert [name for name, count in names.items() if count > 1] == []
