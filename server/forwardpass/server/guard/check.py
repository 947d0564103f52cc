"""The check of one file."""

from dataclasses import dataclass
from pathlib import Path

from forwardpass.proto import metadata
from forwardpass.proto.metadata import MetadataError, Samples
from forwardpass.server.guard.errors import GuardError, NotPlainError
from forwardpass.server.guard.external import bring_in
from forwardpass.server.guard.files import ExternalData, ModelBytes, check_fits, read_model, to_load
from forwardpass.server.guard.limits import Limits
from forwardpass.server.guard.parse import parse
from forwardpass.server.guard.plain import prove_plain
from forwardpass.server.guard.structure import all_tensors, check_structure
from forwardpass.server.guard.tensors import data_outside, raw_size
from forwardpass.server.onnx_messages import ModelProto


@dataclass(frozen=True, slots=True)
class Checked:
    """A model file that passed."""

    content: ModelBytes
    """What was checked, its external data included; load this, since the files may be replaced
    meanwhile."""
    model: ModelProto
    """The model read from them, in canonical form."""
    needs_trial: str
    """The reason for a trial in another process; empty for a plain feed-forward network."""

    @property
    def plain(self) -> bool:
        """Whether the file is proven to be a plain feed-forward network."""
        return not self.needs_trial


def check_file(path: Path, *, root: Path | None, limits: Limits) -> Checked:
    """Check a model file that lies under the folder `root`; None: one that its operator named.

    Everything that the file declares is compared with the bytes that are there; no memory is
    allocated for a size only declared, and onnxruntime does not see the file. Its external data
    has to be in regular files of the model's own folder.

    Raises GuardError with the reason.
    """
    content = read_model(path, root, limits.max_file_bytes)
    try:
        model = parse(content)
        tensors = list(all_tensors(model))
        external = ExternalData(path.parent, limits.max_file_bytes - len(content), root)
        whole = bring_in(model, tensors, content, external)
        if whole is not None:
            content.close()
            content, model = whole, parse(whole)
            tensors = list(all_tensors(model))
        check_structure(model, tensors, content, limits)
        needs_trial, folded = "", 0
        try:
            folded = prove_plain(model, _sample_shapes(model), limits)
        except NotPlainError as error:
            needs_trial = str(error)
        constants = [raw_size(tensor) for _, tensor in tensors]
        need = to_load(len(content), constants=constants, folded=folded)
        check_fits("file", len(content), need)
        return Checked(content, model, needs_trial)
    except GuardError:
        content.close()
        raise


def files_beside(path: Path, max_bytes: int) -> set[Path]:
    """Return the files to which the tensors of a model file refer, whether they are there or not.

    max_bytes: Maximum size of the model file.

    Raises GuardError, also for one outside the model's folder.
    """
    with read_model(path, None, max_bytes) as content:
        external = ExternalData(path.parent, 0)
        return {
            external.path(part, place.location)
            for part, tensor in all_tensors(parse(content))
            if (place := data_outside(part, tensor)) is not None
        }


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
