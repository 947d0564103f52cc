"""The measurements of a run, as medians with their spread, and as ratios of two servers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.field.grid import Case

Turn = tuple[int, int]
"""Round and repeat: what was measured within one is compared."""


@dataclass(frozen=True)
class Figure:
    """The median of several measurements, and the least and most of them."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Mapping[Turn, float]) -> "Figure | None":
        """Return the figure of what was measured; None if nothing was."""
        if not values:
            return None
        return cls(median(values.values()), min(values.values()), max(values.values()), len(values))

    @property
    def spread(self) -> float:
        """Half the way from the least to the most, as a share of the median."""
        return (self.high - self.low) / 2 / abs(self.median) if self.median else 0.0


class Results:
    """A run's file: `records` as measured, and what they were measured on."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.records: list[dict[str, Any]] = data["records"]

    @classmethod
    def read(cls, file: Path) -> "Results":
        """Read a file that a run wrote."""
        return cls(json.loads(file.read_text()))

    def servers(self) -> list[str]:
        """Return the servers in the order in which they were measured."""
        return list(dict.fromkeys(record["server"] for record in self.records))

    def cases(self) -> list[Case]:
        """Return the cases in the order in which they were measured."""
        return list(dict.fromkeys(_case(r) for r in self.records if r["kind"] == "case"))

    def values(self, server: str, what: Case | str, metric: str) -> dict[Turn, float]:
        """Return what was measured of a server in a case, or in a kind of record.

        Measurements with a failed or wrong answer are left out.
        """
        return {
            (record["round"], record.get("repeat", 0)): record[metric]
            for record in self.records
            if record["server"] == server
            and (record["kind"] == what if isinstance(what, str) else _is(record, what))
            and metric in record
            and not record.get("errors")
        }

    def figure(self, server: str, what: Case | str, metric: str) -> Figure | None:
        """Return the median and spread of what was measured."""
        return Figure.of(self.values(server, what, metric))

    def ratio(self, server: str, other: str, what: Case | str, metric: str) -> Figure | None:
        """Return one server's figures over another's, each measured in the same turn."""
        ours, theirs = (self.values(name, what, metric) for name in (server, other))
        return Figure.of({turn: ours[turn] / theirs[turn] for turn in ours if theirs.get(turn)})

    def errors(self) -> list[tuple[str, str, str]]:
        """Return server, case and what went wrong, of every measurement that is left out."""
        found = []
        for record in self.records:
            if record["kind"] == "failure":
                found.append((record["server"], "start", record["error"].splitlines()[0]))
            for error, count in record.get("errors", {}).items():
                found.append((record["server"], described(_case(record)), f"{count} x {error}"))
        return found


def described(case: Case) -> str:
    """Return a case in a few words."""
    load = f"{case.callers} callers" if case.callers else case.load
    return f"{case.network}, {case.rows} rows, {load}"


def _case(record: dict[str, Any]) -> Case:
    return Case(record["network"], record["rows"], record["callers"], record["load"])


def _is(record: dict[str, Any], case: Case) -> bool:
    return record["kind"] == "case" and _case(record) == case
