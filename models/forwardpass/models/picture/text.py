"""One line of text in a picture: its approximate width, and its SVG."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

BACKGROUND = "#ffffff"
INK = "#24292f"

_NARROW = frozenset("ijlftrI.,:;'|!()[]/- ")
_WIDE = frozenset("mwMW@%\N{HORIZONTAL ELLIPSIS}")
_BOLD = 1.1
"""Ratio of the advance of bold letters to that of others."""
_MAX_CHARACTERS = 60
"""Maximum number of letters of an elastic span."""


@dataclass(frozen=True)
class Span:
    """A run of letters in one style."""

    text: str
    color: str = INK
    bold: bool = False
    subscript: bool = False
    elastic: bool = False
    """Whether it may be cut to fit."""

    @property
    def width(self) -> float:
        """Approximate width, as a multiple of the font size."""
        return sum(map(_advance, self.text)) * (_BOLD if self.bold else 1.0)


@dataclass(frozen=True)
class Text:
    """One line of text; y is its baseline."""

    x: float
    y: float
    spans: Sequence[Span]
    anchor: str = "start"
    """Part of the text that is at x: `start`, `middle` or `end`."""
    size: float = 12.0

    @property
    def left(self) -> float:
        """Approximate x of its start."""
        return self.x - self._width * {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]

    @property
    def right(self) -> float:
        """Approximate x of its end."""
        return self.left + self._width

    @property
    def _width(self) -> float:
        return self.size * sum(span.width for span in self.spans)

    def svg(self) -> str:
        """Return the text twice: a halo to separate it from the lines behind it, then the ink."""
        start = f'<text x="{self.x:g}" y="{self.y:g}" font-size="{self.size:g}"'
        start += f' text-anchor="{self.anchor}"' if self.anchor != "start" else ""
        halo = f'stroke="{BACKGROUND}" stroke-width="4" stroke-linejoin="round"'
        letters = "".join(self._tspans())
        return f"{start} {halo}>{letters}</text>{start}>{letters}</text>"

    def _tspans(self) -> Iterator[str]:
        sunk = False
        for span in self.spans:
            look = f' fill="{span.color}"' + (' font-weight="bold"' if span.bold else "")
            look += f' font-size="{self.size * 0.75:g}"' if span.subscript else ""
            if span.subscript != sunk:
                look += f' dy="{3 if span.subscript else -3}"'
            sunk = span.subscript
            yield f"<tspan{look}>{escape(printable(span.text))}</tspan>"


def printable(text: str) -> str:
    """Return text with U+FFFD for characters that are invalid in XML or not printable."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def fitted(spans: Sequence[Span], size: float, room: float) -> list[Span]:
    """Return the spans of a line, cut to fit into `room`, the longest first.

    An ellipsis marks a cut; at least a letter of an elastic span stays.
    """
    line = [
        replace(span, text=_cut(span.text, _MAX_CHARACTERS)) if span.elastic else span
        for span in spans
    ]
    while size * sum(span.width for span in line) > room:
        longest = max(
            (index for index, span in enumerate(line) if span.elastic),
            key=lambda index: len(line[index].text),
            default=None,
        )
        if longest is None or len(line[longest].text) <= 2:
            break
        text = line[longest].text
        line[longest] = replace(line[longest], text=_cut(text, len(text) - 1))
    return line


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}\N{HORIZONTAL ELLIPSIS}"


def _advance(letter: str) -> float:
    """Return a letter's advance as a multiple of the font size, for a wide font: it is unknown."""
    if letter in _NARROW:
        return 0.41
    if letter in _WIDE or unicodedata.east_asian_width(letter) in "WF":
        return 1.0
    return 0.78 if letter.isupper() else 0.64
