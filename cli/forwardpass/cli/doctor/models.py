"""Model files, as a server would take them: read, tried, run, and how they will be batched."""

from collections.abc import Iterator
from pathlib import Path

from forwardpass.cli.doctor.finding import Finding, fine, note, wrong
from forwardpass.server.config import Config
from forwardpass.server.errors import ModelFailedError
from forwardpass.server.guard import Checked, GuardError, check_file
from forwardpass.server.model import Model
from forwardpass.server.repository import ModelFile, RepositoryError, find_models
from forwardpass.server.trial import Trial, TrialError


def check_models(path: Path) -> Iterator[Finding]:
    """Yield what a server would make of each file at a path, with its own defaults."""
    config = Config(models=path)
    root = path.resolve().parent if path.is_file() else path
    try:
        files = find_models(path)
    except (RepositoryError, OSError) as error:
        yield wrong("models", str(error), "name a .onnx file, or a directory with some")
        return
    with Trial(memory_bytes=config.trial_memory_bytes, deadline_s=config.trial_s) as trial:
        for file in files:
            yield _check(file, root, config, trial)


def _check(file: ModelFile, root: Path, config: Config, trial: Trial) -> Finding:
    what = f"model {file.name} version {file.version}"
    if file.fault:
        return wrong(what, file.fault, "a server leaves it out")
    try:
        checked = check_file(file.path, root=root, limits=config.limits)
        # A server spares plain files the trial; here there is time to be sure.
        trial.run(file.path)
        model = Model(file, checked.content, checked.model.graph)
    except (GuardError, TrialError, ModelFailedError) as error:
        return wrong(what, str(error), "export it anew; a server leaves it out")
    return _batching(what, checked, model)


def _batching(what: str, checked: Checked, model: Model) -> Finding:
    read = "plain: loaded without a trial" if checked.plain else "passed its trial"
    batching = model.batching
    if batching.max_rows == 1:
        return note(
            what,
            f"{read}; answers alone, not batched: {batching.reason}",
            "nothing, if calls of one row at a time are what you expect",
        )
    sizes = (1, batching.max_rows) if batching.max_rows in batching.curve_us else (1,)
    costs = ", ".join(f"{batching.curve_us[rows]:,.0f} us for {rows}" for rows in sizes)
    return fine(
        what,
        f"{read}; rows run together, up to {batching.max_rows} a run ({costs} on this machine)",
    )
