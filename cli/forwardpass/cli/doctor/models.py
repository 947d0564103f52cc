"""Model files, as a server would load them: read, tried, run, and how they will be batched."""

from collections.abc import Iterator
from pathlib import Path

from forwardpass.cli.doctor.finding import Finding, fine, note, wrong
from forwardpass.server import Config, RepositoryError
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import ModelFailedError
from forwardpass.server.guard import Checked, GuardError, check_file
from forwardpass.server.repository.disk import ModelFile, find_models
from forwardpass.server.repository.trial import Trial, TrialError


def check_models(path: Path) -> Iterator[Finding]:
    """Yield whether a server would load each file at a path, with its own defaults."""
    config = Config(models=path)
    # A file that is named may be a link to anywhere.
    root = None if path.is_file() else path
    try:
        files = find_models(path)
    except (RepositoryError, OSError) as error:
        yield wrong("models", str(error), "name a .onnx file, or a directory with some")
        return
    with Trial(memory_bytes=config.trial_memory_bytes, cpu_s=config.trial_s) as trial:
        for file in files:
            yield _check(file, root, config, trial)


def _check(file: ModelFile, root: Path | None, config: Config, trial: Trial) -> Finding:
    what = f"model {file.name} version {file.version}"
    if file.fault:
        return wrong(what, file.fault, "a server leaves it out")
    try:
        checked = check_file(file.path, root=root, limits=config.limits)
        with checked.content as content:
            # A server spares plain files the trial; here there is time to be sure.
            trial.run(file.path, content)
            model = Model(file.name, file.version, file.path, content, checked.model.graph)
    except (GuardError, TrialError, ModelFailedError) as error:
        return wrong(what, str(error), "export it again; a server leaves it out")
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
