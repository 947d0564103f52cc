"""Writing a network into a model repository, as a new version."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forwardpass.models.checks import checked_count
from forwardpass.models.errors import ModelExistsError, NetworkError
from forwardpass.models.file.export import check_network, proven, sync_folder, write
from forwardpass.models.file.proof import Proof
from forwardpass.proto.stores import ObjectExistsError, Store, is_store, open_store

if TYPE_CHECKING:
    from forwardpass.models.file.int8 import Quantized
    from forwardpass.models.network import Network

MODEL_FILE = "model.onnx"


@dataclass(frozen=True, slots=True)
class Published:
    """The place of a published network, and the proof made before."""

    path: Path
    """The file, REPOSITORY/NAME/VERSION/model.onnx; of an object store without REPOSITORY."""
    version: int
    proof: Proof
    url: str = ""
    """The URL of the file in an object store; empty on disk."""


def publish(
    network: "Network | Quantized",
    repository: str | os.PathLike[str],
    *,
    version: int | None = None,
    overwrite: bool = False,
) -> Published:
    """Write the network, or its int8 form, to REPOSITORY/NAME/VERSION/model.onnx.

    NAME is the network's. version None takes the one after the highest there is, 1 in an empty
    repository; of several that publish at once each gets its own. A version appears whole or not
    at all. overwrite replaces the file of the version that is given, if there is one. REPOSITORY
    may be in an object store, as in s3://BUCKET/PATH (extra `stores`).

    Raises ExportProofError if the graph does not compute what the network defines,
    ModelExistsError if the version exists and overwrite is False, and NetworkError for a version
    that is no whole number from 1 on, or overwrite without one; StoreError for a store.
    """
    check_network("publish", network)
    if version is None and overwrite:
        raise NetworkError(
            f"network {network.name!r}",
            expected="the version to overwrite",
            got="none",
            fix="give it, as in version=1, or leave overwrite out to write the next version",
        )
    if version is not None:
        version = checked_count(f"network {network.name!r}", "version", version)
    if is_store(repository):
        store = open_store(str(repository), create=True)
        return _publish_to(store, network, version, overwrite=overwrite)
    folder = Path(repository) / network.name
    if version is not None and not overwrite and (folder / str(version)).exists():
        raise _exists(folder / str(version))
    model, proof = proven(network)
    with drafted(folder) as draft:
        write(draft / MODEL_FILE, model, overwrite=True)
        published = place(draft, folder, version, overwrite=overwrite)
    return Published(folder / str(published) / MODEL_FILE, published, proof)


@contextmanager
def drafted(folder: Path) -> Iterator[Path]:
    """Yield a new folder within another, hidden from servers; it is removed if it is still there.

    folder: is made as needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".draft.{secrets.token_hex(8)}"
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish_to(
    store: Store, network: "Network | Quantized", version: int | None, *, overwrite: bool
) -> Published:
    there = _versions_in(store, network.name)
    if version in there and not overwrite:
        raise _exists(f"{store.url}/{network.name}/{version}")
    content, proof = proven(network)
    chosen = max(there, default=0) + 1 if version is None else version
    while True:
        # The file is all that the version has: it appears whole, as the version does.
        path = f"{network.name}/{chosen}/{MODEL_FILE}"
        try:
            store.put(path, content, only_new=not overwrite)
        except ObjectExistsError as error:
            if version is not None:
                raise _exists(f"{store.url}/{network.name}/{version}") from error
            chosen += 1  # another publish was faster
            continue
        return Published(Path(path), chosen, proof, f"{store.url.rstrip('/')}/{path}")


def _versions_in(store: Store, name: str) -> set[int]:
    """Return the versions of a model that have a file in the store."""
    names = [entry.path.split("/")[1] for entry in store.list(name) if "/" in entry.path]
    return {int(name) for name in names if name.isascii() and name.isdigit()}


def place(draft: Path, folder: Path, version: int | None, *, overwrite: bool = False) -> int:
    """Rename a draft to a version in a model's folder and return the version.

    version None takes the one after the highest there is. overwrite replaces the model file of a
    version that exists, and no other file.

    Raises ModelExistsError if the version exists and overwrite is False.
    """
    while True:
        chosen = highest(folder) + 1 if version is None else version
        target = folder / str(chosen)
        try:
            draft.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            if version is None:
                continue  # another publish was faster
            if not overwrite:
                raise _exists(target) from error
            (draft / MODEL_FILE).replace(target / MODEL_FILE)
            sync_folder(target)
        sync_folder(folder)
        return chosen


def highest(folder: Path) -> int:
    """Return the highest version in a model's folder, 0 if there is none."""
    names = [entry.name for entry in folder.iterdir()]
    versions = [int(name) for name in names if name.isascii() and name.isdigit()]
    return max(versions, default=0)


def _exists(target: Path | str) -> ModelExistsError:
    return ModelExistsError(
        str(target), "say overwrite=True to replace it, or give no version for the next one"
    )
