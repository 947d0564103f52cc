"""The table of what is served."""

import pytest

from forwardpass.cli.serving.table import draw

HEAD = ("model", "inputs")


def test_a_table_is_as_wide_as_its_texts() -> None:
    assert draw("serving", HEAD, [("a", "x: FP32[-1, 3]\ny: FP32[1]"), ("long name", "")]) == (
        "           serving\n"
        "┌───────────┬────────────────┐\n"
        "│ model     │ inputs         │\n"
        "├───────────┼────────────────┤\n"
        "│ a         │ x: FP32[-1, 3] │\n"
        "│           │ y: FP32[1]     │\n"
        "│ long name │                │\n"
        "└───────────┴────────────────┘"
    )


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_long_texts_are_wrapped_at_the_width_of_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    words = " ".join(f"word{n}" for n in range(40))
    lines = draw("serving", HEAD, [("name", words)]).splitlines()
    assert {len(line) for line in lines[1:]} == {columns}
    for n in range(40):
        assert any(f"word{n}" in line for line in lines)


def test_what_a_terminal_would_take_for_commands_is_not_written() -> None:
    assert "\x1b" not in draw("serving", HEAD, [("\x1b[31mred", "\x07")])
