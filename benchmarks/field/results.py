"""The measurements of a run, as medians with their spread, and as ratios of two servers."""

import json
from collections.abc import Iterator, Mapping, Sequence
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
        """Read a file that `write` wrote."""
        data = json.loads(file.read_text())
        return cls({**data, "records": list(_unpacked(data.pop("tables")))})

    def write(self, file: Path) -> None:
        """Write a file that `read` reads: to eight digits, a table a line."""
        data = {name: value for name, value in self.data.items() if name != "records"}
        tables = ",\n".join(json.dumps(each) for each in _packed(self.records))
        file.write_text(f'{json.dumps(data, indent=1)[:-2]},\n "tables": [\n{tables}\n]}}\n')

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

    def ratio(
        self, server: str, other: str, what: Case | str, metric: str, theirs: Case | None = None
    ) -> Figure | None:
        """Return one server's figures over another's, each measured in the same turn.

        theirs: The other's case; None: the same.
        """
        return self._over(
            self.values(server, what, metric), self.values(other, theirs or what, metric)
        )

    @staticmethod
    def _over(ours: dict[Turn, float], theirs: dict[Turn, float]) -> Figure | None:
        return Figure.of({turn: ours[turn] / theirs[turn] for turn in ours if theirs.get(turn)})

    def errors(self) -> list[tuple[str, str, str]]:
        """Return server, case and what went wrong, in order, of all that is left out."""
        found = []
        for record in self.records:
            if record["kind"] == "failure":
                found.append((record["server"], "start", record["error"].splitlines()[0]))
            for error, count in record.get("errors", {}).items():
                found.append((record["server"], described(_case(record)), f"{count} x {error}"))
        return sorted(found)


def _packed(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a table for each server and kind of record: names once, in place of in each record."""
    tables: dict[tuple[Any, ...], list[list[Any]]] = {}
    for record in records:
        fields = {
            name: float(f"{value:.8g}") if isinstance(value, float) else value
            for name, value in record.items()
            if name not in ("kind", "server") and (name, value) != ("errors", {})
        }
        key = (record["kind"], record["server"], tuple(fields))
        tables.setdefault(key, []).append(list(fields.values()))
    return [
        {"kind": kind, "server": server, "columns": columns, "rows": rows}
        for (kind, server, columns), rows in tables.items()
    ]


def _unpacked(tables: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for table in tables:
        for row in table["rows"]:
            fields = dict(zip(table["columns"], row, strict=True))
            yield {"kind": table["kind"], "server": table["server"], **fields}


def described(case: Case) -> str:
    """Return a case in a few words."""
    load = f"{case.callers} callers" if case.callers else case.load
    if case.over > 1:
        load += f" on {case.over} connections"
    return f"{case.network}, {case.rows} rows, {load}"


def _case(record: dict[str, Any]) -> Case:
    return Case(
        record["network"], record["rows"], record["callers"], record["load"], record.get("over", 0)
    )


def _is(record: dict[str, Any], case: Case) -> bool:
    return record["kind"] == "case" and _case(record) == case
