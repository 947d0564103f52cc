"""The errors that this package raises on purpose: one tree, `ModelsError` at its root."""


class ModelsError(Exception):
    """Root of the tree."""


class NetworkError(ModelsError, ValueError):
    """A network, or a part of one, that is not as it has to be."""

    def __init__(self, subject: str, *, expected: str, got: str, fix: str) -> None:
        super().__init__(f"{subject}: expected {expected}, got {got}; {fix}")
        self.subject = subject
        """Which part, as in `layer 'L2'`."""
        self.expected = expected
        self.got = got
        self.fix = fix


class UnsupportedModelError(ModelsError, ValueError):
    """An ONNX model that holds what a Network cannot represent."""

    def __init__(self, part: str, why: str) -> None:
        super().__init__(
            f"{part}: {why}; the server needs no Network: serve the .onnx file as it is"
        )
        self.part = part
        """Which part of the model, as in `node 'conv1' (Conv)`."""
        self.why = why


class UnsupportedSourceError(ModelsError, ValueError):
    """A model of another library that holds what a Network cannot represent."""

    def __init__(self, part: str, why: str, fix: str) -> None:
        super().__init__(f"{part}: {why}; {fix}")
        self.part = part
        """Which part of the model, as in `layer 'conv' (Conv2D)`."""
        self.why = why
        self.fix = fix


class MissingLibraryError(ModelsError, ImportError):
    """A library that something takes and that is not installed: one reads a file's format."""

    def __init__(self, subject: str, library: str, extra: str = "import") -> None:
        super().__init__(
            f"{subject}: takes {library}, which is not installed; "
            f"pip install 'forwardpass[{extra}]'",
            name=library,
        )


class ExportProofError(ModelsError):
    """A graph that was not shown to compute what its network defines: nothing is written."""

    def __init__(self, why: str, output: str | None = None) -> None:
        subject = "exported graph" if output is None else f"output {output!r} of the exported graph"
        super().__init__(f"{subject}: {why}; nothing was written")
        self.why = why
        self.output = output
        """Which output is at fault, if it is one."""


class Int8LossError(ModelsError):
    """An int8 graph that is further from its network than was allowed."""

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
    """A model file or version that is there already and was not to be replaced."""

    def __init__(self, path: str, fix: str) -> None:
        super().__init__(f"{path} exists already; {fix}")
        self.path = path
