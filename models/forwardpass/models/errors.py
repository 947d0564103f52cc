"""The errors of this package: one tree with the root `ModelsError`."""

from forwardpass.proto.pickling import PicklableError
from forwardpass.proto.spec import shortened


class ModelsError(PicklableError):
    """Root of all errors of this package."""


class NetworkError(ModelsError, ValueError):
    """A network, or a part of it, is invalid."""

    def __init__(self, subject: str, *, expected: str, got: str, fix: str) -> None:
        super().__init__(f"{subject}: expected {expected}, got {got}; {fix}")
        self.subject = subject
        """The invalid part, as in `layer 'L2'`."""
        self.expected = expected
        self.got = got
        self.fix = fix


class UnsupportedModelError(ModelsError, ValueError):
    """An ONNX model has a part that a Network cannot represent."""

    def __init__(
        self,
        part: str,
        why: str,
        fix: str = "the server needs no Network: serve the .onnx file as it is",
    ) -> None:
        super().__init__(f"{shortened(part)}: {shortened(why)}; {fix}")
        self.part = part
        """The unsupported part of the model, as in `node 'conv1' (Conv)`."""
        self.why = why


class UnsupportedSourceError(ModelsError, ValueError):
    """A model of another library has a part that a Network cannot represent."""

    def __init__(self, part: str, why: str, fix: str) -> None:
        super().__init__(f"{shortened(part)}: {shortened(why)}; {fix}")
        self.part = part
        """The unsupported part of the model, as in `layer 'conv' (Conv2D)`."""
        self.why = why
        self.fix = fix


class MissingLibraryError(ModelsError, ImportError):
    """A required library is not installed, for example to read a file's format."""

    def __init__(self, subject: str, library: str, extra: str = "import") -> None:
        super().__init__(
            f"{subject}: takes {library}, which is not installed; "
            f"pip install 'forwardpass[{extra}]'",
            name=library,
        )


class ExportProofError(ModelsError):
    """A graph was not proven to compute what its network defines; nothing is written."""

    def __init__(self, why: str, output: str | None = None) -> None:
        subject = "exported graph" if output is None else f"output {output!r} of the exported graph"
        super().__init__(f"{subject}: {why}; nothing was written")
        self.why = why
        self.output = output
        """Name of the wrong output; None if the whole graph is wrong."""


class Int8LossError(ModelsError):
    """An int8 graph has larger errors than allowed."""

    def __init__(self, output: str, loss: float, max_loss: float) -> None:
        super().__init__(
            f"output {output!r} in int8: expected errors of at most {max_loss:.3g} of the largest "
            f"answer, got {loss:.3g}; allow more, give calibration rows that are more typical, or "
            "stay with float32"
        )
        self.output = output
        self.loss = loss
        self.max_loss = max_loss


class ModelExistsError(ModelsError, FileExistsError):
    """A model file or version exists already and must not be replaced."""

    def __init__(self, path: str, fix: str) -> None:
        super().__init__(f"{path} exists already; {fix}")
        self.path = path
