"""What a caller sends: columns of numbers, and of categories that scikit-learn encodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.categorical import REFUSE, ZEROS, Categorical
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.sklearn.tables import RAW, Table
from forwardpass.proto.tables import is_missing

_ELSEWHERE = (
    "the server needs no Network: write an ONNX file of it, as with skl2onnx, and serve that"
)


def unsupported(part: str, why: str, fix: str = _ELSEWHERE) -> UnsupportedSourceError:
    """Return the error for what no Network represents."""
    return UnsupportedSourceError(part, why, fix)


class Columns:
    """The columns that an estimator was fitted with, and what became known of them."""

    def __init__(self, names: Sequence[str], count: int) -> None:
        self.named = bool(names)
        """Whether the names are those of the fit."""
        self.names = tuple(names) if names else tuple(f"x{k}" for k in range(count))
        """Names of the fit, or those that scikit-learn makes of numbers."""
        self.categories: dict[str, Categorical] = {}
        """The inputs of categories, by name."""
        self.absent: dict[str, Any] = {}
        """What scikit-learn reads as a missing category, by input: NaN or None."""
        self._given: set[int] = set()
        self._fills: dict[int, Any] = {}
        self._filled: dict[str, Any] = {}

    def give(self, table: Table) -> None:
        """Note that a transformer or an estimator reads a table."""
        raw = [source == RAW for source in table.sources]
        self._given.update(int(at) for at in table.at[raw])

    def drop(self, table: Table, k: int) -> None:
        """Note that a column of a table is not read after all."""
        if table.sources[k] == RAW:
            self._given.discard(int(table.at[k]))

    def fill(self, part: str, table: Table, k: int, value: Any) -> None:
        """Note what stands for a missing value in a column of a table."""
        source, at = table.sources[k], int(table.at[k])
        if source in self.categories:
            raise unsupported(
                part, f"it fills in {source!r} once it is encoded", "fill it in first"
            )
        if source != RAW:
            return  # of a layer, which never lacks a value
        if not isinstance(value, str):
            value = float(value) * table.scale[k] + table.mean[k]
        if self._fills.setdefault(at, value) != value:
            raise unsupported(
                part,
                f"it fills in {value!r} for {self.names[at]!r}, where another part fills in "
                f"{self._fills[at]!r}",
                "impute once, before what is fitted several times",
            )

    def encode(
        self,
        part: str,
        table: Table,
        k: int,
        categories: NDArray[Any],
        rows: NDArray[np.float64],
        unknown: NDArray[np.float64] | None,
    ) -> Table:
        """Return the rows (k, width) that an encoder has for the categories of a column.

        unknown: the row (width,) of any other value, or None if there is none.
        """
        at = int(table.at[k])
        name = self.names[at]
        if table.sources[k] != RAW or table.mean[k] or table.scale[k] != 1:
            raise unsupported(part, "it encodes what another step computes", "encode it first")
        missing = np.array([*map(is_absent, categories)])
        kept = missing & np.isnan(rows).any(axis=1)
        if kept.any() and not (unknown is None or np.isnan(unknown).any()):
            raise unsupported(
                part,
                f"a missing {name!r} is NaN, and an unknown one is not",
                "give encoded_missing_value a number",
            )
        if missing.any():
            self.absent[name] = categories[missing][0]
        texts = _plain(part, name, categories[~kept], missing[~kept])
        filled = self._fills.get(at)
        if filled is not None and texts and not isinstance(texts[0], str):
            filled = int(filled)
        shift = np.zeros(rows.shape[1])
        otherwise: str | int = REFUSE
        if unknown is not None and not np.isnan(unknown).any():
            same = np.flatnonzero((rows[~kept] == unknown).all(axis=1))
            if not unknown.any():
                otherwise = ZEROS
            elif len(same):
                otherwise = texts[same[0]]
            else:
                otherwise, shift = ZEROS, unknown
        made = Categorical(
            name, texts, otherwise, filled if filled in texts else None, rows[~kept] - shift
        )
        if self.categories.setdefault(name, made) != made or (
            self._filled.setdefault(name, filled) != filled
        ):
            raise unsupported(
                part,
                f"it encodes {name!r} otherwise than another part does",
                "encode it once, before what is fitted several times",
            )
        if filled is not None:
            self.absent[name] = np.nan
        return Table.of(name, made.width).scaled(-shift, 1.0)

    def numbers(self, used: set[int]) -> list[int]:
        """Return the columns of the input of numbers; used: those that layers read."""
        encoded = {k for k, name in enumerate(self.names) if name in self.categories}
        for at in sorted(used & encoded):
            raise unsupported(
                f"column {self.names[at]!r}",
                "both a category and a number",
                "give the encoder a copy of it under another name",
            )
        for at in sorted(encoded):
            name = self.names[at]
            if self._fills.get(at) is not None and self._filled[name] is None:
                raise unsupported(
                    f"column {name!r}", "filled in for some parts only", "impute it first"
                )
        if not used:
            return []
        # Columns that are dropped at once may be of any kind; callers without names send them.
        dropped = set(range(len(self.names))) - self._given
        left_out = encoded | dropped if self.named or encoded else encoded
        return [k for k in range(len(self.names)) if k not in left_out]

    def fills(self, numbers: Sequence[int]) -> NDArray[np.float64] | None:
        """Return what stands for a missing number, or None."""
        dropped = set(numbers) - self._given
        values = [0.0 if k in dropped else self._fills.get(k, np.nan) for k in numbers]
        return None if all(np.isnan(values)) else np.array(values, np.float64)


def is_absent(value: Any) -> bool:
    """Whether a value marks a missing one: None, NaN, or pandas' NA, which has no truth."""
    return is_missing(value) or bool(value != value)


def _plain(
    part: str, name: str, categories: NDArray[Any], missing: NDArray[np.bool_]
) -> tuple[str, ...] | tuple[int, ...]:
    """Return categories as texts, the missing one as the empty text, or as integers."""
    known = categories[~missing].tolist()
    if all(isinstance(each, str) for each in known):
        texts = tuple(
            "" if absent else str(each) for each, absent in zip(categories, missing, strict=True)
        )
        if texts.count("") > 1:
            raise unsupported(part, f"an empty and a missing {name!r}", "make them one")
        return texts
    whole = all(
        isinstance(each, int | float) and not isinstance(each, bool) and each == each // 1
        for each in known
    )
    if {bool} == {*map(type, known)}:
        raise unsupported(
            part,
            f"booleans as categories of {name!r}",
            "make integers of them before the fit, or pass the column on as a number",
        )
    if whole and missing.any():
        raise unsupported(
            part,
            f"integers as categories of {name!r}, and missing ones",
            "impute them first, as by SimpleImputer(strategy='most_frequent')",
        )
    if not whole:
        raise unsupported(
            part,
            f"categories of {name!r} that are neither texts nor integers",
            "write them as texts, and fit it again",
        )
    return tuple(int(each) for each in known)
