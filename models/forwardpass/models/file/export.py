"""Writing a network as an ONNX file: it is proven first, and written whole or not at all."""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from forwardpass.models.errors import ExportProofError, ModelExistsError
from forwardpass.models.file.graph import serialize, to_onnx
from forwardpass.models.file.int8 import Quantized
from forwardpass.models.file.load import load
from forwardpass.models.file.proof import Proof, prove

if TYPE_CHECKING:
    from forwardpass.models.network import Network


def export(
    network: "Network | Quantized", path: str | os.PathLike[str], *, overwrite: bool = False
) -> Proof:
    """Write the network, or its int8 form, as one .onnx file; return the proof made before.

    Folders are made as needed. The file appears whole or not at all, and equal networks give
    equal bytes.

    Raises ExportProofError if the graph does not compute what the network defines, and
    ModelExistsError if the file exists and overwrite is False.
    """
    check_network("export", network)
    target = Path(path)
    if not overwrite and target.exists():
        raise _exists(target)
    model, proof = proven(network)
    target.parent.mkdir(parents=True, exist_ok=True)
    write(target, model, overwrite=overwrite)
    return proof


def check_network(function: str, network: object) -> None:
    """Raise TypeError unless the first argument of a function is a network, or its int8 form."""
    from forwardpass.models.network import Network

    if not isinstance(network, Network | Quantized):
        got = repr(network) if isinstance(network, str | os.PathLike) else type(network).__name__
        raise TypeError(
            f"{function}: expected a Network first and the path second, got {got}; make one with "
            f"Network.define, load or an importer, and call {function}(network, path)"
        )


def proven(network: "Network | Quantized") -> tuple[bytes, Proof]:
    """Return the bytes of the network's file, and the proof that they compute the network.

    An int8 form has both already.

    Raises ExportProofError if they do not.
    """
    import onnx

    if isinstance(network, Quantized):
        return network.content, network.proof
    model = serialize(to_onnx(network))
    onnx.checker.check_model(model)
    proof = prove(model, network)
    # For a wide network the rounding bound may hide one wrong weight: compare every bit.
    if load(model) != network:
        raise ExportProofError("the file reads back as another network")
    return model, proof


def write(target: Path, content: bytes, *, overwrite: bool) -> None:
    """Write a file that appears whole or not at all.

    Raises ModelExistsError if the file exists and overwrite is False, even if another process
    wrote it meanwhile.
    """
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            draft.replace(target)
        else:
            _rename_to_new(draft, target)
    except FileExistsError as error:
        raise _exists(target) from error
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    sync_folder(target.parent)


def _rename_to_new(draft: Path, target: Path) -> None:
    """Rename a file; raises FileExistsError, and changes nothing, if the new name exists."""
    try:
        target.hardlink_to(draft)  # a rename would silently replace
    except FileExistsError:
        raise
    except OSError:  # a filesystem without hard links: take the name first, then fill it
        target.open("xb").close()
        draft.replace(target)


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exists(target: Path) -> ModelExistsError:
    return ModelExistsError(str(target), "say overwrite=True to replace it")
