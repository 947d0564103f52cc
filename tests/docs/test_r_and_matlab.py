"""What stands on the page for programs that are not at hand is what wrote the files for it."""

from pathlib import Path

from docs.blocks import blocks
from docs.test_examples import GIVEN, ROOT


def test_octave_ran_the_lines_that_the_page_shows_for_matlab() -> None:
    page = ROOT / "docs" / "r-and-matlab.md"
    (shown,) = (each for each in blocks(page.read_text()) if each.language == "matlab")
    ran = Path(GIVEN / page.stem / "net.m").read_text()
    assert ran.endswith(shown.text)
