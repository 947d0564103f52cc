"""What a check found."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How it stands."""

    FINE = "ok"
    NOTE = "note"
    """Fine as it is, and good to know."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    found: str
    fix: str = ""
    """What to change; empty where there is nothing."""


def fine(what: str, found: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(what, Verdict.FINE, found)


def note(what: str, found: str, fix: str = "") -> Finding:
    """Return a finding to know of."""
    return Finding(what, Verdict.NOTE, found, fix)


def wrong(what: str, found: str, fix: str) -> Finding:
    """Return a finding that has to change."""
    return Finding(what, Verdict.WRONG, found, fix)
