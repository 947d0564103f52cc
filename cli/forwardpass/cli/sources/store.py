"""A model in an object store."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from forwardpass.cli.sources.origin import name_of, the_onnx_file, too_large
from forwardpass.proto.stores import Entry, Store, open_store


@dataclass(frozen=True)
class StoredFile:
    """A file of a store, with what was listed of it, if it was."""

    store: Store
    """The folder of the file."""
    entry: Entry

    @classmethod
    def of(cls, source: str) -> "StoredFile":
        """Read the URL of a .onnx file, or of a folder with one.

        Raises StoreError, also without obstore, and CommandError for what the store does not have.
        """
        folder = source.rstrip("/")
        if folder.endswith(".onnx"):
            folder, _, file = folder.rpartition("/")
            # Nothing is asked before it is read: a store may allow that, and no listing.
            return cls(open_store(folder), Entry(file, None))
        found = {entry.path: entry for entry in open_store(folder).list()}
        path = PurePosixPath(the_onnx_file(source, found, "name the file"))
        entry = found[str(path)]._replace(path=path.name)
        return cls(open_store("/".join([folder, *path.parts[:-1]])), entry)

    @property
    def name(self) -> str:
        """Name of the model, from the address."""
        return name_of(self.text.partition("://")[2])

    @property
    def text(self) -> str:
        """The address of the file."""
        return f"{self.store.url}/{self.entry.path}"

    @property
    def facts(self) -> Mapping[str, str]:
        """The store's name for the content, if it has one."""
        return {"etag": self.entry.tag} if self.entry.tag else {}

    def fetch(self, beside: str, to: Path, max_bytes: int) -> None:
        """Write a file; raises StoreError, and CommandError for one listed as too large."""
        entry = Entry(beside, None) if beside else self.entry
        if (entry.size or 0) > max_bytes:
            raise too_large(self.text, max_bytes)
        self.store.fetch(entry, to, max_bytes=max_bytes)
