"""From a file on disk to a model that answers: checked, tried, loaded, proven."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import QueueLimits
from forwardpass.server.engine.terms import Terms
from forwardpass.server.errors import ModelFailedError
from forwardpass.server.guard import (
    Checked,
    GuardError,
    Limits,
    NoRoomError,
    check_file,
    written_by_anybody,
)
from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.process.memory import give_back
from forwardpass.server.repository.disk import ModelFile, is_as_found
from forwardpass.server.repository.trial import Trial, TrialError

Made = Callable[[Model, ModelBytes], Model]
"""What is done with a model that is loaded, and with its bytes."""


class Files:
    """Reads the model files at a path, through the guard."""

    def __init__(self, path: Path, limits: Limits) -> None:
        """Prepare; path: of the repository, or of the only file."""
        # A file that is served by its name may be a link to anywhere.
        self._root = path.resolve().parent if path.is_file() else path
        self._named = path.is_file()
        self._limits = limits

    def limits(self, file: Path) -> tuple[Limits, str]:
        """Return the limits of a file, and why it is not trusted as others are; empty if it is."""
        # --general-models is for files that one can trust.
        distrust = self._limits.general and written_by_anybody(file, self._root)
        if not distrust:
            return self._limits, ""
        return replace(self._limits, general=False, unproven=False), distrust

    def check(self, file: Path, limits: Limits) -> Checked:
        """Read and check a file; raises GuardError."""
        return check_file(file, root=None if self._named else self._root, limits=limits)


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
        by_feature: bool = False,
        made: "Made | None" = None,
    ) -> None:
        """Prepare; the trial is for files that are not proven harmless by reading them.

        watch_inputs: Whether the models count inputs out of range (`engine.drift`). by_feature:
        Whether they count by column, too. made: Returns what answers, of a model whose bytes are
        there until it returns; None: the model itself.
        """
        self._files = Files(path, limits)
        self._trial = trial
        self._queue = queue
        self._watch_inputs = watch_inputs
        self._by_feature = by_feature
        self._made = made

    def load(self, file: ModelFile) -> Model:
        """Load a model file.

        Raises ModelFailedError with the reason.
        """
        if file.fault:
            raise ModelFailedError(file.name, file.version, file.fault)
        limits, distrust = self._files.limits(file.path)
        try:
            checked = self._files.check(file.path, limits)
            try:
                return self._load(file, checked, limits)
            finally:
                checked.content.close()
        except (GuardError, TrialError) as error:
            reason = str(error)
            if distrust:
                reason += f" (--general-models does not apply where {distrust}; forbid it)"
            may_pass = isinstance(error, NoRoomError) or (
                isinstance(error, TrialError) and error.may_pass
            )
            raise ModelFailedError(file.name, file.version, reason, may_pass=may_pass) from error
        finally:
            give_back()

    def _load(self, file: ModelFile, checked: Checked, limits: Limits) -> Model:
        takes_none = True
        if not checked.plain:
            takes_none = self._trial.run(
                file.path, checked.content, general=limits.general, unproven=limits.unproven
            )
        if not is_as_found(file):
            # It is looked at again when it rests.
            raise ModelFailedError(file.name, file.version, "its file changed while it was loaded")
        model = Model(
            file.name,
            file.version,
            file.path,
            checked.content,
            checked.model.graph,
            self._queue,
            watch_inputs=self._watch_inputs,
            by_feature=self._by_feature,
            terms=Terms() if file.config is None else file.config.terms,
            takes_none=takes_none,
            unproven=limits.unproven and not checked.plain,
            max_run_bytes=self._trial.memory_bytes,
        )
        return model if self._made is None else self._made(model, checked.content)
