"""Options that another module defines, in place of one of a command's parameters."""

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any


def in_place_of(
    name: str, options: Iterable[inspect.Parameter], make: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the parameter `name` of a command by options; it gets the result of `make`.

    make is called with the options' values, by name.
    """
    options = list(options)
    names = [option.name for option in options]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def called(**given: Any) -> None:
            made = make(**{option: given.pop(option) for option in names})
            command(**given, **{name: made})

        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != name
        ]
        # typer reads one or the other, depending on its version.
        signature = inspect.Signature([*own, *options])
        called.__signature__ = signature  # type: ignore[attr-defined]  # documented by inspect
        called.__annotations__ = {
            parameter.name: parameter.annotation for parameter in signature.parameters.values()
        }
        del called.__wrapped__  # it has another signature
        return called

    return decorate
