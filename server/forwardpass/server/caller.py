"""A caller and its permissions: models by pattern, times kinds of call."""

import re
from collections.abc import Collection, Iterable
from enum import StrEnum
from fnmatch import translate

from forwardpass.server.errors import PermissionDeniedError

ALL_MODELS = "*"

_MAX_REMEMBERED = 1024
_MAX_NAME = 256
"""Bounds what a caller that asks for ever new names can make us keep."""


class Action(StrEnum):
    """The kinds of call."""

    INFER = "infer"
    """ModelInfer, ModelStreamInfer."""
    READ = "read"
    """What a model is, how it does: metadata, configuration, statistics, the index."""
    CONTROL = "control"
    """What changes the server: loading and unloading, shared memory, log settings."""


class Caller:
    """Somebody who calls; `check` costs a call no more than looking up its model's name."""

    def __init__(self, name: str, models: Iterable[str], actions: Collection[Action]) -> None:
        """Permit the actions on the models whose names match one of the patterns (fnmatch)."""
        self.name = name
        """As the file of tokens has it; empty where nobody is asked."""
        patterns = list(models)
        self._all_models = ALL_MODELS in patterns
        self._pattern = re.compile("|".join(map(translate, patterns)) or "(?!)")
        # A tuple: finding an action in it compares identities, where a set would hash its name.
        self._actions = tuple(actions)
        self._matches: dict[str, bool] = {}

    def may(self, action: Action, model: str | None) -> bool:
        """Tell whether something is permitted; None is the server as a whole.

        What concerns the server as a whole is permitted to who may do it with all models.
        """
        if action not in self._actions:
            return False
        if self._all_models or model is None:
            return self._all_models
        matches = self._matches.get(model)
        if matches is None:
            matches = self._pattern.match(model) is not None
            if len(model) <= _MAX_NAME:
                if len(self._matches) >= _MAX_REMEMBERED:
                    self._matches.clear()
                self._matches[model] = matches
        return matches

    def check(self, action: Action, model: str | None) -> None:
        """Raise PermissionDeniedError unless it is permitted."""
        if not self.may(action, model):
            raise PermissionDeniedError(self.name, action, model)


ANYONE = Caller("", [ALL_MODELS], list(Action))
"""Who calls where nobody is asked who calls."""
