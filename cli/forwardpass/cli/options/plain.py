"""The options of `serve` read without typer, whose import takes 0.2 s of CPU.

Only what is written plainly is read here. The rest, errors and the help among it, is typer's: there
is one place that says what is valid, and the tests compare the two.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from forwardpass.server import Config
from forwardpass.server.settings import Option, build, options

_NUMBERS = {int: re.compile(r"[0-9]{1,15}"), float: re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")}
_SWITCHES = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}


class _NotPlainError(Exception):
    """Typer has to read the options."""


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Config | None:
    """Return the settings of a server; None if typer has to read them, or to reject them.

    arguments: Those after the name of the command.
    """
    try:
        return build(Config, _values(arguments, environment))
    except (_NotPlainError, ValueError):
        return None


def _values(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    known = {option.name: option for option in options(Config)}
    written = _written(arguments, known)
    values = {}
    for name, option in known.items():
        text = written.get(name, environment.get(option.variable, ""))
        if text:
            values[name] = _value(option, text)
        elif name in written or option.default is MISSING:
            raise _NotPlainError
    return values


def _written(arguments: Sequence[str], known: Mapping[str, Option]) -> dict[str, str]:
    """Return the texts of the options and of the argument, by the names of their settings."""
    found: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        flag, equals, text = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not argument.startswith("-"):
            name, text = "models", argument
        elif not flag.startswith("--") or "_" in flag:
            raise _NotPlainError
        elif name in known:
            option = known[name]
            if option.default is MISSING or (option.kind is bool and equals):
                raise _NotPlainError
            if option.kind is bool:
                text = "on"
            elif not equals:
                text = next(rest, "-")
                if text.startswith("-"):
                    raise _NotPlainError
        else:
            # `--no-NAME` turns off what is on by default.
            name = name.removeprefix("no_")
            turned_off = not equals and flag.startswith("--no-") and name in known
            if not turned_off or known[name].default is not True:
                raise _NotPlainError
            text = "off"
        if name in found:
            raise _NotPlainError
        found[name] = text
    return found


def _value(option: Option, text: str) -> Any:
    setting = option.setting
    if setting.parse is not None or setting.choices:
        return text
    (kind,) = [each for each in get_args(option.kind) or (option.kind,) if each is not NoneType]
    if kind is bool:
        if text not in _SWITCHES:
            raise _NotPlainError
        return _SWITCHES[text]
    if kind in _NUMBERS:
        if not _NUMBERS[kind].fullmatch(text):
            raise _NotPlainError
        return kind(text)
    if kind not in (str, Path):
        raise _NotPlainError
    return kind(text)
