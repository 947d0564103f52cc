"""An input of categories, which a network encodes itself: `Categorical`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.arrays import parameter, same_bits
from forwardpass.models.checks import check_name
from forwardpass.models.errors import NetworkError
from forwardpass.proto.metadata import MISSING_INTEGER, MISSING_TEXT

REFUSE, ZEROS = "refuse", "zeros"
_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True, eq=False)
class Categorical:
    """An input of one column of categories, texts or integers; layers read it by its name.

    What they read is a row for each category, by default one-hot: (N, 1) -> (N, width). An
    identity layer without bias that reads it is an embedding. Equal inputs have equal bits.

    Raises NetworkError unless name, categories and values are as described below.
    """

    name: str
    categories: tuple[str, ...] | tuple[int, ...]
    """Distinct texts, or distinct integers of 64 bits, in the order of the columns."""
    unknown: str | int = "refuse"
    """What any other value is read as. `refuse`: NaN, so that no output that depends on it has an
    answer; `zeros`: a row of zeros; or one of the categories."""
    missing: str | int | None = None
    """The category that a missing value is read as; None for an unknown one. In the file's input a
    missing value is the empty text or the least int64, unless that is a category itself."""
    values: NDArray[Any] | None = None
    """The row that is read for each category: (k, width) float32, copied, read-only, or (k,) for a
    width of 1; None for one-hot rows of width k."""
    baseline: str | int | None = None
    """The category from which explanations start. None is what a missing value is read as, or a row
    of zeros if that is refused; it changes no answer."""

    if TYPE_CHECKING:  # What the constructor takes is wider than what the fields have then.

        def __init__(
            self,
            name: str,
            categories: Iterable[str] | Iterable[int],
            unknown: str | int = "refuse",
            missing: str | int | None = None,
            values: ArrayLike | None = None,
            baseline: str | int | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        check_name("input name", self.name)
        subject = f"input {self.name!r}"
        categories = _checked_categories(subject, self.categories)
        object.__setattr__(self, "categories", categories)
        unknown = _plain(self.unknown)
        if unknown not in (REFUSE, ZEROS):
            check_one_of(subject, "unknown", unknown, categories, "'refuse' or 'zeros'")
        object.__setattr__(self, "unknown", unknown)
        if self.missing is not None:
            missing = _plain(self.missing)
            check_one_of(subject, "missing", missing, categories, "None")
            if self.missing_value in categories:
                raise NetworkError(
                    subject,
                    expected=f"no missing, as {self.missing_value!r} is a category itself",
                    got=repr(missing),
                    fix="leave missing out",
                )
            object.__setattr__(self, "missing", missing)
        if self.baseline is not None:
            baseline = _plain(self.baseline)
            check_one_of(subject, "baseline", baseline, categories, "None")
            object.__setattr__(self, "baseline", baseline)
        object.__setattr__(self, "values", _checked_values(subject, self.values, len(categories)))

    @property
    def datatype(self) -> str:
        """The datatype on the wire: `BYTES` for texts, `INT64` for integers."""
        return "BYTES" if isinstance(self.categories[0], str) else "INT64"

    @property
    def missing_value(self) -> str | int:
        """The value of a missing one in the file's input."""
        return MISSING_TEXT if self.datatype == "BYTES" else MISSING_INTEGER

    @property
    def width(self) -> int:
        """The number of columns that layers read."""
        return len(self.categories) if self.values is None else int(self.values.shape[1])

    @property
    def scaled(self) -> "tuple[Categorical]":
        """The sources that layers can read: the input alone."""
        return (self,)

    @property
    def codes(self) -> dict[str | int, int]:
        """The index of the row that is read for each value; for any other `default_code`."""
        categories: tuple[str | int, ...] = self.categories
        codes = {each: k for k, each in enumerate(categories)}
        if self.missing is not None:
            codes[self.missing_value] = codes[self.missing]
        return codes

    @property
    def default_code(self) -> int:
        """The index of the row that is read for an unknown value; -1 if it is no category's."""
        return -1 if self.unknown in (REFUSE, ZEROS) else self.codes[self.unknown]

    def read(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the rows that layers read for values of the categories' type.

        (N, 1) -> (N, width).
        """
        codes, default = self.codes, self.default_code
        index = np.array([codes.get(each, default) for each in values[:, 0].tolist()], np.intp)
        table = np.eye(len(self.categories)) if self.values is None else self.values
        outside = np.full((1, self.width), np.nan if self.unknown == REFUSE else 0.0)
        return np.vstack([table.astype(np.float64), outside])[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Categorical):
            return NotImplemented
        return self._key() == other._key() and same_bits(self.values, other.values)

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.name, self.categories, self.unknown, self.missing, self.baseline

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, since NumPy's pickles lose the read-only flag.
        *fields, baseline = self._key()
        return Categorical, (*fields, self.values, baseline)


def _plain(value: Any) -> Any:
    """Return a text or an integer as Python's own type, which prints as it is written."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    return value


def _checked_categories(
    subject: str, categories: Iterable[Any]
) -> tuple[str, ...] | tuple[int, ...]:
    given = [] if isinstance(categories, str) else [_plain(each) for each in categories]
    kinds = {type(each) for each in given}
    if len(kinds) != 1 or kinds - {str, int}:
        odd = next((each for each in given if type(each) not in (str, int)), None)
        raise NetworkError(
            subject,
            expected="categories that are all texts or all integers",
            got=repr(categories if odd is None else odd),
            fix="write them as texts, as in ('low', 'high')",
        )
    seen: set[str | int] = set()
    for each in given:
        if each in seen:
            raise NetworkError(
                subject,
                expected="distinct categories",
                got=f"{each!r} twice",
                fix="leave one of them out",
            )
        if not _is_storable(each):
            raise NetworkError(
                subject,
                expected="categories of Unicode text, or integers above -2**63 and below 2**63",
                got=repr(each),
                fix="write them as texts, as in ('low', 'high')",
            )
        seen.add(each)
    return tuple(given)


def _is_storable(category: str | int) -> bool:
    if isinstance(category, int):
        return MISSING_INTEGER < category <= _INT64.max
    try:
        category.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_one_of(
    subject: str, what: str, value: object, categories: tuple[object, ...], otherwise: str
) -> None:
    """Raise NetworkError unless a value is a category; otherwise: What else it may be."""
    if value not in categories or isinstance(value, bool):
        raise NetworkError(
            subject,
            expected=f"{what} to be {otherwise}, or one of the categories",
            got=repr(value),
            fix="name one of them",
        )


def _checked_values(
    subject: str, values: ArrayLike | None, count: int
) -> NDArray[np.float32] | None:
    """Return the rows of the categories as (k, width); None for the rows of the identity matrix."""
    if values is None:
        return None
    array = parameter(subject, "values", values)
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim != 2 or len(array) != count or not array.shape[1]:
        raise NetworkError(
            subject,
            expected=f"values of shape ({count},) or ({count}, width), a row for each category",
            got=f"shape {np.shape(values)}",
            fix="give one row for each category, in their order",
        )
    if np.array_equal(array, np.eye(count)):
        return None
    array = array + np.float32(0)  # turns -0.0 into 0.0, as a sum with zeros does
    array.setflags(write=False)
    return array
