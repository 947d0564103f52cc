"""The result of a check."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Result of a check."""

    FINE = "ok"
    NOTE = "note"
    """A finding that needs no change, but is good to know."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    what: str
    verdict: Verdict
    found: str
    fix: str = ""
    """The change to make; empty if there is none."""


def fine(what: str, found: str) -> Finding:
    """Return a finding that needs no change."""
    return Finding(what, Verdict.FINE, found)


def note(what: str, found: str, fix: str = "") -> Finding:
    """Return a finding that is good to know."""
    return Finding(what, Verdict.NOTE, found, fix)


def wrong(what: str, found: str, fix: str) -> Finding:
    """Return a finding that needs a change."""
    return Finding(what, Verdict.WRONG, found, fix)
