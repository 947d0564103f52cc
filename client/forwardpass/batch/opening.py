"""A model's file that travels with a job, opened and proven once in each process."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from forwardpass.client import LocalClient, ModelFileError, load
from forwardpass.client._session import check_file

_KEPT = 16
"""Maximum models that a process keeps open: a long-lived worker meets new ones every day."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's file as it travels: its bytes, or its path and what has to be there."""

    path: str
    """The path, by which the model gets its name; `model.onnx` for bytes that came without one."""
    sha256: str
    content: bytes | None = field(compare=False)
    """The bytes; None if each worker reads the path."""
    threads: int
    """Threads of a run."""

    @classmethod
    def of(cls, model: str | os.PathLike[str] | bytes, *, threads: int, ship: bool) -> "ModelFile":
        """Read the file; raises ModelFileError without one, ValueError for bytes not to ship."""
        if isinstance(model, bytes):
            if not ship:
                raise ValueError("ship: expected True for a model given as bytes, got False")
            path, content = "model.onnx", model
        else:
            path = os.path.abspath(model)
            check_file(Path(path), None)
            content = Path(path).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        return cls(path, sha256, content if ship else None, threads)

    def opened(self) -> LocalClient:
        """Return the model, loaded and proven by its samples at the first call in a process.

        Raises ModelFileError if the file is another one here, or its answers are wrong.
        """
        client = _opened.get(self)
        if client is None:
            with _opening:
                client = _opened.get(self)
                if client is None:
                    client = self._open()
                    while len(_opened) >= _KEPT:
                        # A call in progress has its own reference.
                        del _opened[next(iter(_opened))]
                    _opened[self] = client
        return client

    def _open(self) -> LocalClient:
        content = self.content
        if content is None:
            check_file(Path(self.path), None)
            # What is checked is what is loaded: the file may be replaced meanwhile.
            content = Path(self.path).read_bytes()
            found = hashlib.sha256(content).hexdigest()
            if found != self.sha256:
                raise ModelFileError(
                    f"expected the file with SHA-256 {self.sha256}, with which the job began, got "
                    f"{found}; give every worker the same file, or ship its bytes",
                    target=self.path,
                )
        client = load(self.path, content=content, threads=self.threads)
        client.prove()
        return client


_opened: dict[ModelFile, LocalClient] = {}
_opening = Lock()
