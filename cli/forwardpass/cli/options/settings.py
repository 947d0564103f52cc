"""The settings of a server as options and variables, made from the fields of its Config."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING
from typing import Annotated, Any

import typer

from forwardpass.cli.errors import UsageError
from forwardpass.cli.options.parameters import in_place_of
from forwardpass.server import Config
from forwardpass.server.settings import INT32_MAX, Option, Setting, build, options

_ARGUMENTS = {"models": "path"}
"""The settings that are arguments -> their names in the usage."""


def configures(command: Callable[[Config], None]) -> Callable[..., None]:
    """Replace the parameter `config` of a command by the settings of a server, as options."""
    parameters = [_parameter(option) for option in options(Config)]
    return in_place_of("config", parameters, _config)(command)


def _config(**given: Any) -> Config:
    try:
        values = {name: given.pop(shown) for name, shown in _ARGUMENTS.items()}
        return build(Config, {**given, **values})
    except ValueError as error:
        raise UsageError(str(error)) from error


def _parameter(option: Option) -> inspect.Parameter:
    setting, kind, default = option.setting, option.kind, option.default
    if setting.parse is not None or setting.choices:
        kind, default = str, default if default is MISSING else str(default)
    name = _ARGUMENTS.get(option.name, option.name)
    if default is MISSING:
        default = inspect.Parameter.empty
        written = typer.Argument(help=setting.text, envvar=option.variable)
    else:
        written = typer.Option(
            *_flags(option), help=setting.text, envvar=option.variable, **_range(setting)
        )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, written],
    )


def _flags(option: Option) -> tuple[str, ...]:
    """Return the flags of a switch: one that is on has a second flag to turn it off."""
    if option.kind is not bool:
        return ()
    flag = "--" + option.name.replace("_", "-")
    return (f"{flag}/--no-{flag[2:]}" if option.default else flag,)


def _range(setting: Setting) -> dict[str, Any]:
    """Return the bounds that the help shows and that the option itself checks.

    They are those of a count, a port and a number that is not negative. Config checks the others,
    with errors that name their unit.
    """
    if setting.least is None or (setting.unit and setting.least != 0):
        return {}
    return {"min": setting.least, "max": None if setting.most == INT32_MAX else setting.most}
