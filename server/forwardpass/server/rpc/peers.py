"""What the processes of one server have to agree on, as the RPCs see it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from forwardpass.server.engine.model import Model
from forwardpass.server.engine.statistics import Calls, Runs
from forwardpass.server.observe.log_settings import set_log


class Counted(NamedTuple):
    """What was counted of a model."""

    calls: Calls
    """Sums over its calls."""
    runs: Mapping[int, Runs]
    """Sums over its runs, by their rows."""
    phases: Mapping[str, Sequence[int]]
    """Histograms of the phases of its calls; empty before the first."""
    waiting: int
    """Number of jobs that wait now."""


class Peers(Protocol):
    """The processes that answer the calls of one server."""

    def counted(self, models: Sequence[Model]) -> Sequence[Counted]:
        """Return what all processes have counted of models; an entry for each."""

    def set_log(self, wanted: Mapping[str, Any]) -> None:
        """Change log settings in all processes; raises InvalidRequestError."""


class Alone:
    """One process that has no others."""

    def counted(self, models: Sequence[Model]) -> Sequence[Counted]:
        """Return what was counted of models."""
        return [
            Counted(*model.statistics.read(), model.statistics.phases(), model.waiting)
            for model in models
        ]

    def set_log(self, wanted: Mapping[str, Any]) -> None:
        """Change log settings; raises InvalidRequestError."""
        set_log(wanted)
