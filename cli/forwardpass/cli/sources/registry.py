"""A version of a model in a registry of MLflow: of a server, or a store on this machine."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.sources.origin import reported, the_onnx_file, too_large
from forwardpass.models import MissingLibraryError

_SOURCE = re.compile(r"mlflow:([^@/]+)(?:@([^@/]+)|/([1-9][0-9]*))")
_TRACKING = "MLFLOW_TRACKING_URI"
_FIX = f"check the name, its alias or version, and {_TRACKING}"
_UNLESS_SET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # By itself it tries for minutes, in silence.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Stores in folders were the default up to 3.6; later versions refuse even to read them.
    "MLFLOW_ALLOW_FILE_STORE": "true",
}
"""Variables of MLflow and their values here, unless they are set."""
_ON_DISK = re.compile(r"(?:sqlite:///|file:(?://)?)?(/.*)")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_MOST_FILES = 10_000
"""Maximum files of a version that are looked at."""


@dataclass(frozen=True)
class RegisteredFile:
    """The ONNX file of a version, and the sizes of all its files in bytes."""

    name: str
    version: str
    path: str
    sizes: Mapping[str, int | None]
    run: str
    alias: str

    @classmethod
    def of(cls, source: str) -> "RegisteredFile":
        """Read `mlflow:NAME@ALIAS` or `mlflow:NAME/VERSION`, and look the version up.

        Raises UsageError for another form, and without a registry; MissingLibraryError without
        mlflow, and CommandError for what the registry does not have.
        """
        found = _SOURCE.fullmatch(source)
        if found is None:
            raise UsageError(f"{source}: expected mlflow:NAME@ALIAS or mlflow:NAME/VERSION")
        _check_tracking(source, os.environ.get(_TRACKING, ""))
        for variable, value in _UNLESS_SET.items():
            os.environ.setdefault(variable, value)
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise MissingLibraryError(source, "mlflow", "mlflow") from error
        name, alias, number = found.groups()
        with reported(source, _FIX):
            client = MlflowClient()
            version = (
                client.get_model_version_by_alias(name, alias)
                if alias
                else client.get_model_version(name, number)
            )
            number = str(version.version)
            sizes = dict(_listed(f"models:/{name}/{number}", ""))
        path = the_onnx_file(
            f"{source}, version {number}",
            sizes,
            "log it with mlflow.onnx.log_model, with one .onnx file for each version",
        )
        return cls(name, number, path, sizes, version.run_id or "", alias or "")

    @property
    def text(self) -> str:
        """The source with the version's number."""
        return f"mlflow:{self.name}/{self.version}"

    @property
    def facts(self) -> Mapping[str, str]:
        """Version, run and alias, as far as there are some."""
        facts = {"version": self.version, "run": self.run, "alias": self.alias}
        return {key: text for key, text in facts.items() if text}

    def fetch(self, beside: str, to: Path, max_bytes: int) -> None:
        """Write a file of the version; raises CommandError for one that is not there."""
        from mlflow.artifacts import download_artifacts

        path = str(PurePosixPath(self.path).parent / beside) if beside else self.path
        if path not in self.sizes:
            raise CommandError(
                f"{self.text}: expected its weights in {path!r}, got no such file; the model is "
                "not whole: log it again"
            )
        if (self.sizes[path] or 0) > max_bytes:
            raise too_large(self.text, max_bytes)
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=".mlflow.") as folder:
            with reported(self.text, _FIX):
                got = download_artifacts(
                    f"models:/{self.name}/{self.version}/{path}", dst_path=folder
                )
            Path(got).rename(to)


def _check_tracking(source: str, uri: str) -> None:
    """Raise for a store that is not there, which MLflow would make, or cannot be read."""
    if not uri:
        # MLflow would make a database in the working folder.
        raise UsageError(
            f"{source}: expected {_TRACKING}, got none; set it to the address of the server, or to "
            "file:///FOLDER or sqlite:////FILE for a store on this machine"
        )
    here = _ON_DISK.fullmatch(uri)
    if here and not Path(unquote(here[1])).exists():
        raise UsageError(f"{source}: expected a store at {_TRACKING}={uri}, got no such path")
    if uri.startswith(_DATABASES) and find_spec("sqlalchemy") is None:
        raise CommandError(
            f"{source}: takes sqlalchemy for the database of {_TRACKING}, which is not installed; "
            "pip install mlflow, all of it"
        )


def _listed(uri: str, folder: str) -> Iterator[tuple[str, int | None]]:
    """Yield path and size of each file below a folder of artifacts."""
    from mlflow.artifacts import list_artifacts

    folders, count = [folder], 0
    while folders:
        below = folders.pop()
        for entry in list_artifacts(f"{uri}/{below}" if below else uri):
            count += 1
            if count > _MOST_FILES:
                raise CommandError(f"{uri}: expected at most {_MOST_FILES} files, got more")
            if entry.is_dir:
                folders.append(entry.path)
            else:
                yield entry.path, entry.file_size
