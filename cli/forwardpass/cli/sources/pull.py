"""`forwardpass pull`."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import typer

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.sources.origin import Origin, sha256
from forwardpass.models import ModelExistsError
from forwardpass.models.checks import check_name
from forwardpass.models.file.export import sync_folder
from forwardpass.models.file.publish import MODEL_FILE, drafted, highest, place
from forwardpass.proto.metadata import PROVENANCE_FILE, dump_json
from forwardpass.server import Config, Limits
from forwardpass.server.engine.queue import QueueLimits
from forwardpass.server.errors import ModelFailedError
from forwardpass.server.guard import GuardError, files_beside
from forwardpass.server.repository.disk import find_models
from forwardpass.server.repository.loader import Loader
from forwardpass.server.repository.trial import Trial

_KINDS = {
    "mlflow": ("registry", "RegisteredFile"),
    "hf": ("hub", "HubFile"),
    "https": ("web", "WebFile"),
    "http": ("web", "WebFile"),
    **dict.fromkeys(("s3", "gs", "az", "file"), ("store", "StoredFile")),
}
"""Scheme of a source -> the module beside this one, and the class there."""


def pull_model(
    source: str, repository: Path, *, name: str | None, version: int | None, limits: Limits
) -> None:
    """Publish the model that a source names as a version in a repository, with the same bytes.

    name: None takes the source's. version: None takes the next one, unless the latest has the same
    bytes. limits: those of the server that will serve it.

    Nothing is written unless a server with these limits loads the file. Raises UsageError and
    CommandError, and MissingLibraryError for a source whose package is not installed.
    """
    origin = _found(source)
    name = origin.name if name is None else name
    check_name(f"name of {origin.text} (--name sets it)", name)
    if origin.facts and origin.text != source:
        typer.echo(f"{source} is {origin.text}")
    folder = repository / name
    with drafted(repository) as draft:
        files = _fetched(origin, draft, limits)
        _check(origin, draft, name, limits)
        latest = folder / str(highest(folder) if folder.is_dir() else 0)
        if version is None and _has(latest, files):
            typer.echo(f"{latest / MODEL_FILE} has the same bytes already; nothing was written")
            return
        provenance = draft / PROVENANCE_FILE
        provenance.write_text(_provenance(origin, files), encoding="utf-8")
        _sync(draft, [*files, PROVENANCE_FILE])
        folder.mkdir(exist_ok=True)
        try:
            published = place(draft, folder, version)
        except ModelExistsError as error:
            raise CommandError(
                f"{error.path} exists already; leave --version out for the next one"
            ) from error
    path = folder / str(published) / MODEL_FILE
    typer.echo(f"wrote {path} ({path.stat().st_size:,} bytes, SHA-256 {files[MODEL_FILE]})")


def _found(source: str) -> Origin:
    scheme, colon, _ = source.partition(":")
    if not colon or scheme not in _KINDS:
        raise UsageError(
            f"{source!r}: expected mlflow:NAME@ALIAS, hf:OWNER/REPO@COMMIT, "
            "https://HOST/FILE.onnx#sha256=HEX, or a file in a store: s3://, gs://, az://, file://"
        )
    module, name = _KINDS[scheme]
    read: Callable[[str], Origin] = getattr(
        import_module(f"forwardpass.cli.sources.{module}"), name
    ).of
    return read(source)


def _fetched(origin: Origin, draft: Path, limits: Limits) -> dict[str, str]:
    """Write the model's file and those beside it that it refers to; return the SHA-256 of each."""
    model = draft / MODEL_FILE
    left = limits.max_file_bytes
    origin.fetch("", model, left)
    files = {MODEL_FILE: sha256(model)}
    try:
        further = sorted(files_beside(model, limits.max_file_bytes))
    except GuardError as error:
        raise CommandError(f"{origin.text}: {error}") from error
    for path in further:
        beside = path.relative_to(draft).as_posix()
        if beside in (MODEL_FILE, PROVENANCE_FILE):
            raise CommandError(
                f"{origin.text}: expected its weights in another file than {beside!r}, whose name "
                "a repository needs itself; save it as one file"
            )
        left = limits.max_file_bytes - sum((draft / file).stat().st_size for file in files)
        path.parent.mkdir(parents=True, exist_ok=True)
        origin.fetch(beside, path, left)
        files[beside] = sha256(path)
    return files


def _check(origin: Origin, draft: Path, name: str, limits: Limits) -> None:
    """Load the model as a server does; raises CommandError with its reason."""
    (file,) = find_models(draft / MODEL_FILE)
    config = Config(models=draft, limits=limits)
    with Trial(memory_bytes=config.trial_memory_bytes, cpu_s=config.trial_s) as trial:
        try:
            Loader(draft, limits, trial, QueueLimits()).load(replace(file, name=name))
        except ModelFailedError as error:
            raise CommandError(f"{origin.text}: {error.reason}") from error


def _has(version: Path, files: Mapping[str, str]) -> bool:
    """Whether a version has these files, by their SHA-256."""
    try:
        return all(sha256(version / file) == digest for file, digest in files.items())
    except OSError:
        return False


def _provenance(origin: Origin, files: Mapping[str, str]) -> str:
    texts = {
        "pulled from": origin.text,
        "pulled at": datetime.now(UTC).isoformat(timespec="seconds"),
        **origin.facts,
        **{f"sha256 of {file}": digest for file, digest in files.items()},
    }
    return dump_json(texts) + "\n"


def _sync(draft: Path, files: Iterable[str]) -> None:
    """Make files survive a power cut, before they are renamed into place."""
    for file in files:
        with (draft / file).open("rb") as opened:
            os.fsync(opened.fileno())
        sync_folder((draft / file).parent)
