"""A model in a repository of a Hugging Face hub, at a commit."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.sources.origin import reported, sha256, the_onnx_file, too_large
from forwardpass.models import MissingLibraryError

_SOURCE = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:/([^@]+))?(?:@([^@]+))?", re.ASCII)
_FIX = (
    "check the repository and the commit, HF_ENDPOINT for a hub of your own, and HF_TOKEN for one "
    "that needs a login"
)


@dataclass(frozen=True)
class _File:
    """What a hub states of a file."""

    size: int
    sha256: str
    """Empty for one that it keeps in Git itself."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at a commit, and all that are there."""

    repository: str
    path: str
    commit: str
    files: Mapping[str, _File] = field(repr=False)

    @classmethod
    def of(cls, source: str) -> "HubFile":
        """Read `hf:OWNER/REPO[/PATH.onnx][@COMMIT]`; any other revision is looked up.

        Raises UsageError for another form, MissingLibraryError without huggingface_hub, and
        CommandError for what the hub does not have.
        """
        found = _SOURCE.fullmatch(source)
        if found is None:
            raise UsageError(
                f"{source}: expected hf:OWNER/REPO@COMMIT, or hf:OWNER/REPO/PATH.onnx@COMMIT"
            )
        repository, path, revision = found.groups()
        # Obeyed where it is set, as of onnxruntime.
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise MissingLibraryError(source, "huggingface_hub", "huggingface") from error
        with reported(source, _FIX):
            info = HfApi().model_info(repository, revision=revision, files_metadata=True)
            files = {
                each.rfilename: _File(each.size or 0, each.lfs.sha256 if each.lfs else "")
                for each in info.siblings or ()
            }
            commit = info.sha
        if not commit:
            raise CommandError(f"{source}: expected a commit, got none; {_FIX}")
        if not path:
            path = the_onnx_file(source, files, "name it: hf:OWNER/REPO/PATH.onnx@COMMIT")
        elif path not in files or not path.endswith(".onnx"):
            raise CommandError(
                f"{source}: expected a .onnx file of the repository, got {path!r}; there are: "
                f"{', '.join(sorted(each for each in files if each.endswith('.onnx'))) or 'none'}"
            )
        return cls(repository, path, commit, files)

    @property
    def name(self) -> str:
        """Name of the repository, without its owner."""
        return self.repository.partition("/")[2]

    @property
    def text(self) -> str:
        """The source with file and commit."""
        return f"hf:{self.repository}/{self.path}@{self.commit}"

    @property
    def facts(self) -> Mapping[str, str]:
        """The commit."""
        return {"commit": self.commit}

    def fetch(self, beside: str, to: Path, max_bytes: int) -> None:
        """Write a file of the commit; raises CommandError for one that is not there."""
        from huggingface_hub import hf_hub_download

        path = str(PurePosixPath(self.path).parent / beside) if beside else self.path
        there = self.files.get(path)
        if there is None:
            raise CommandError(
                f"{self.text}: expected its weights in {path!r}, got no such file; the model is "
                "not whole: name another file or commit"
            )
        if there.size > max_bytes:
            raise too_large(self.text, max_bytes)
        # A folder of its own: not the user's cache, where a file may have been changed since.
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=".hub.") as folder:
            with reported(self.text, _FIX):
                got = hf_hub_download(self.repository, path, revision=self.commit, local_dir=folder)
            Path(got).rename(to)
        found = sha256(to)
        if there.sha256 not in ("", found):
            raise CommandError(
                f"{self.text}: expected {path!r} with SHA-256 {there.sha256}, as the hub states, "
                f"got {found}; pull it again"
            )
