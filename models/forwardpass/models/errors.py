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
    """A library that reads a file's format and is not installed."""

    def __init__(self, path: str, library: str) -> None:
        super().__init__(
            f"{path}: reading it takes {library}, which is not installed; "
            f"pip install 'forwardpass[import]'",
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


class ModelExistsError(ModelsError, FileExistsError):
    """A model file or version that is there already and was not to be replaced."""

    def __init__(self, path: str, fix: str) -> None:
        super().__init__(f"{path} exists already; {fix}")
        self.path = path
