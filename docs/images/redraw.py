"""Redraw the pictures of the example networks beside this file: `make docs-images`."""

from pathlib import Path

from forwardpass.models.picture.svg import to_svg
from forwardpass.models.zoo import ZOO

SHOWN_ROW = {"breast_cancer": 5, "linnerud": 0}
"""The held-out row whose activations fill the neurons, for the networks that are shown so."""


def pictures() -> dict[str, str]:
    """Return the content of each file by its name; the same everywhere."""
    files = {}
    for name, example in ZOO.items():
        row = example.held_out().x[SHOWN_ROW[name]] if name in SHOWN_ROW else None
        files[f"{name}.svg"] = to_svg(example.network(), row)
    return files


if __name__ == "__main__":
    for name, svg in pictures().items():
        (Path(__file__).parent / name).write_text(svg, encoding="utf-8")
