"""The committed pictures are those that the project draws."""

import runpy
from pathlib import Path

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def test_the_pictures_are_as_drawn_now() -> None:
    pictures = runpy.run_path(str(IMAGES / "redraw.py"))["pictures"]()
    assert {path.name for path in IMAGES.glob("*.svg")} == set(pictures)
    for name, svg in pictures.items():
        assert (IMAGES / name).read_text(encoding="utf-8") == svg, f"{name}: make docs-images"
