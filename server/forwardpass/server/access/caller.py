"""A caller and its permissions: models by pattern, times kinds of call."""

import re
from collections.abc import Collection, Iterable
from copy import copy
from enum import StrEnum
from fnmatch import translate

from forwardpass.server.access.quota import Quota
from forwardpass.server.errors import PermissionDeniedError

ALL_MODELS = "*"

_MAX_REMEMBERED = 1024
_MAX_NAME = 256
"""Maximum length of a cached name, in characters: bounds the memory that new names can take."""


class Action(StrEnum):
    """The kinds of call."""

    INFER = "infer"
    """ModelInfer, ModelStreamInfer."""
    READ = "read"
    """Metadata, configuration, statistics, the index."""
    CONTROL = "control"
    """Changes of the server: loading and unloading, shared memory, log settings."""


class Caller:
    """A caller; `check` costs a call one lookup of its model's name."""

    def __init__(
        self,
        name: str,
        models: Iterable[str],
        actions: Collection[Action],
        *,
        quota: Quota | None = None,
        batch: bool = False,
    ) -> None:
        """Permit the actions on the models whose names match one of the patterns (fnmatch)."""
        self.name = name
        """Name in the file of tokens; empty without authentication."""
        self.peer = ""
        """Address, for the audit; empty where only the name counts."""
        self.quota = quota
        """Its quota; None: no limit."""
        self.batch = batch
        """Whether all its calls are of the class batch."""
        patterns = list(models)
        self._all_models = ALL_MODELS in patterns
        self._pattern = re.compile("|".join(map(translate, patterns)) or "(?!)")
        # A tuple compares identities to find an action; a set would hash its name.
        self._actions = tuple(actions)
        self._matches: dict[str, bool] = {}

    def at(self, peer: str, name: str) -> "Caller":
        """Return the same caller with its address and, if it has none, a name."""
        caller = copy(self)
        caller.name, caller.peer = self.name or name, peer
        return caller

    def may(self, action: Action, model: str | None) -> bool:
        """Return whether an action is permitted; model None is the server as a whole.

        The server as a whole is permitted to callers with the permission for all models.
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
        """Raise PermissionDeniedError unless the action is permitted."""
        if not self.may(action, model):
            raise PermissionDeniedError(self.name, action, model)


ANYONE = Caller("", [ALL_MODELS], list(Action))
"""The caller without authentication."""
