"""Settings: text, bounds and option are written once, in the annotation of a field.

A class of settings is a frozen dataclass whose fields are annotated with a `Setting`. A field
without one is a group: another class of settings.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

INT32_MAX = 2**31 - 1
"""Maximum signed 32-bit integer, the limit of gRPC, protobuf and the operating system."""

_PREFIX = "FORWARDPASS_"

_Settings = TypeVar("_Settings", bound="DataclassInstance")


class Setting(NamedTuple):
    """One setting: its text, its bounds and its option."""

    text: str
    """Description for the help and the documentation."""
    unit: str = ""
    """Unit in the plural, for errors; empty for a count."""
    least: float | None = None
    """Minimum value; None: no minimum."""
    above: float | None = None
    """Exclusive lower bound; None: no such bound."""
    most: float | None = None
    """Maximum value; None: no maximum."""
    choices: tuple[str, ...] = ()
    """All valid texts; empty: any value of the type."""
    parse: Callable[[str], Any] | None = None
    """Parses the value from text, or raises ValueError; None for numbers, strings and paths."""
    name: str = ""
    """Name of the option; empty: the name of the field."""
    offered: bool = True
    """Whether operators can set it; if not, only programs can."""

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError that names the setting, what was expected and what came."""
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"{name}: expected {' or '.join(self.choices)}, got {value!r}")
            return
        # The condition also rejects NaN.
        if not (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        ):
            raise ValueError(f"{name}: expected {self._range()}, got {value}")

    def _range(self) -> str:
        if self.above is not None:
            bounds = f"more than {self.above}"
        elif self.most is None:
            bounds = f"at least {self.least}"
        else:
            bounds = f"{self.least}..{self.most}"
        return f"{bounds} {self.unit}".strip()


class Option(NamedTuple):
    """A setting as an option of the command line and the environment."""

    name: str
    kind: Any
    """Type of the field."""
    default: Any
    """Value if it is not set; MISSING if it is required."""
    setting: Setting

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return _PREFIX + self.name.upper()


def check(settings: "DataclassInstance") -> None:
    """Raise ValueError for the first setting that is out of bounds."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        setting = _setting(field)
        # Optional settings have None as their default.
        if setting is not None and (value is not None or field.default is not None):
            setting.check(field.name, value)


def make_paths(settings: "DataclassInstance") -> None:
    """Replace paths that were given as texts, or as other `os.PathLike`, by a Path.

    Raises ValueError that names a setting with a value of another type.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        kind = getattr(field.type, "__origin__", None)
        if kind not in (Path, Path | None) or (value is None and field.default is None):
            continue
        try:
            # The settings are frozen, but not before they are valid.
            object.__setattr__(settings, field.name, Path(value))
        except TypeError as error:
            raise ValueError(f"{field.name}: expected a path, got {value!r}") from error


def options(kind: "type[DataclassInstance]") -> Iterator[Option]:
    """Yield the options of a class of settings, including groups, in order."""
    for field in fields(kind):
        setting = _setting(field)
        if setting is None:
            yield from options(_group(field))
        elif setting.offered:
            factory = field.default_factory
            default = field.default if factory is MISSING else factory()
            yield Option(_name(field, setting), field.type.__origin__, default, setting)  # type: ignore[union-attr]


def build(kind: type[_Settings], given: Mapping[str, Any]) -> _Settings:
    """Return the settings for the given option values; missing options get their defaults.

    Raises ValueError for an invalid value.
    """
    values: dict[str, Any] = {}
    for field in fields(kind):
        setting = _setting(field)
        if setting is None:
            values[field.name] = build(_group(field), given)
            continue
        name = _name(field, setting)
        if setting.offered and name in given:
            value = given[name]
            values[field.name] = value if setting.parse is None else setting.parse(value)
    return kind(**values)


def _setting(field: Field[Any]) -> Setting | None:
    written = getattr(field.type, "__metadata__", ())
    return next((each for each in written if isinstance(each, Setting)), None)


def _group(field: Field[Any]) -> "type[DataclassInstance]":
    kind: type[DataclassInstance] = field.type  # type: ignore[assignment]
    return kind


def _name(field: Field[Any], setting: Setting) -> str:
    return setting.name or field.name
