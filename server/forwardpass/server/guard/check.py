"""The guard itself: one file, checked."""

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from forwardpass.proto import metadata
from forwardpass.proto.metadata import MetadataError, Samples
from forwardpass.server.guard.errors import GuardError, NotPlainError
from forwardpass.server.guard.files import ExternalData, read_model
from forwardpass.server.guard.limits import Limits
from forwardpass.server.guard.parse import parse
from forwardpass.server.guard.plain import prove_plain
from forwardpass.server.guard.structure import check_structure


@dataclass(frozen=True, slots=True)
class Checked:
    """A file that passed."""

    content: bytes
    """What was checked; load this, since the file may be replaced meanwhile."""
    model: ModelProto
    needs_trial: str
    """Why it must be tried in another process first; empty for a plain feed-forward network."""

    @property
    def plain(self) -> bool:
        """Whether the file is proven to be a plain feed-forward network."""
        return not self.needs_trial


def check_file(path: Path, *, root: Path, limits: Limits) -> Checked:
    """Check a model file that lies under the folder `root`.

    Everything that the file declares is proven against the bytes that are there; nothing is
    allocated on its word, and onnxruntime does not see it. Its external data has to be in regular
    files of the model's own folder.

    Raises GuardError with the reason.
    """
    content = read_model(path, root, limits.max_file_bytes)
    model = parse(content)
    external = ExternalData(path.parent, limits.max_file_bytes - len(content))
    check_structure(model, external, limits)
    try:
        prove_plain(model, _sample_shapes(model), limits)
    except NotPlainError as error:
        return Checked(content, model, str(error))
    return Checked(content, model, "")


def _sample_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs that are replayed when the model is loaded."""
    texts = {entry.key: entry.value for entry in model.metadata_props}
    if metadata.SAMPLES not in texts:
        return {}
    try:
        samples = Samples.load(texts[metadata.SAMPLES])
    except MetadataError as error:
        raise GuardError(
            f"metadata {metadata.SAMPLES!r}",
            expected="samples of the file contract's form",
            got=str(error),
            fix="export the model again",
        ) from error
    return {name: array.shape for name, array in samples.inputs.items()}
