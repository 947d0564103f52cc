"""From a file on disk to a model that answers: checked, tried, loaded, proven."""

from dataclasses import replace
from pathlib import Path

from forwardpass.server.batching import QueueLimits
from forwardpass.server.errors import ModelFailedError
from forwardpass.server.guard import GuardError, Limits, check_file, written_by_anybody
from forwardpass.server.model import Model
from forwardpass.server.repository import ModelFile, is_as_found
from forwardpass.server.trial import Trial, TrialError


class Loader:
    """Makes models of the files at a path."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        trial: Trial,
        queue: QueueLimits,
        *,
        watch_inputs: bool = False,
    ) -> None:
        """Prepare; the trial is for files that are not proven harmless by reading them.

        watch_inputs: Whether the models look at what callers send.
        """
        # A file that is served by its name may be a link to anywhere.
        self._root = path.resolve().parent if path.is_file() else path
        self._limits = limits
        self._trial = trial
        self._queue = queue
        self._watch_inputs = watch_inputs

    def load(self, file: ModelFile) -> Model:
        """Load a model file.

        Raises ModelFailedError with the reason.
        """
        if file.fault:
            raise ModelFailedError(file.name, file.version, file.fault)
        # --general-models is for files that one can trust.
        distrust = self._limits.general and written_by_anybody(file.path, self._root)
        limits = replace(self._limits, general=False) if distrust else self._limits
        try:
            checked = check_file(file.path, root=self._root, limits=limits)
            if not checked.plain:
                self._trial.run(file.path, general=limits.general)
        except (GuardError, TrialError) as error:
            reason = str(error)
            if distrust:
                reason += f" (--general-models does not hold where {distrust})"
            raise ModelFailedError(file.name, file.version, reason) from error
        if not is_as_found(file):
            # What was tried may not be what was checked; it is looked at again when it rests.
            raise ModelFailedError(file.name, file.version, "its file changed while it was loaded")
        return Model(
            file,
            checked.content,
            checked.model.graph,
            self._queue,
            watch_inputs=self._watch_inputs,
        )
