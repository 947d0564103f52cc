"""Files in object stores, by URL: listed, read as they were listed, and written.

Needs obstore (extra `stores`), which is imported when a store is opened, and its credentials come
from the store's own chain alone: the environment, a file that it names, then the cloud's metadata
service. That service is asked only by a store of its cloud, at its first request.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from forwardpass.proto.pickling import PicklableError

if TYPE_CHECKING:
    from obstore import Bytes, GetOptions
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

SCHEMES = ("s3", "gs", "az", "https", "http", "file")
"""The schemes of stores: S3, Google, Azure (`az://CONTAINER/PATH`), an index, a folder."""

INDEX_FILE = "SHA256SUMS"
"""What lists the files of an https store, as the command `sha256sum` writes it."""

_MAX_INDEX_BYTES = 2**24
_CHUNK_BYTES = 2**20
_NAMED_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_URL_SECRETS = re.compile(r"(?<=://)[^/@\s]*@|\?[^\s\"'),]*")
"""Users with passwords, and queries, where signatures are."""


class StoreError(PicklableError):
    """A store that cannot be opened, read or written; the text has no credentials."""


class ObjectChangedError(StoreError):
    """A file that is no longer what was listed, or is gone."""


class ObjectExistsError(StoreError):
    """A file that exists, where only a new one was to be written."""


class Entry(NamedTuple):
    """A file of a store as it was listed."""

    path: str
    """Path below the store's URL, with `/`."""
    size: int | None
    """Size in bytes; None if the listing does not say, as of an https store."""
    tag: str | None = None
    """The store's name for this content (ETag). The same content may have several."""
    sha256: str | None = None
    """Checksum of the content in lower-case hexadecimal digits, where the listing has it."""


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the URL of a store."""
    return isinstance(path, str) and path.partition("://")[0] in SCHEMES and "://" in path


def open_store(url: str, *, create: bool = False) -> "Store":
    """Open the store at a URL, as in s3://BUCKET/PATH. Nothing is sent yet.

    create: Whether to make the folder of file:// if it is missing.

    Raises StoreError without obstore, and for a URL that is none of a store or has credentials.
    """
    check_store_url(url)
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise StoreError(
            f"{url}: object stores need obstore; install forwardpass[stores]"
        ) from error
    parts = urlsplit(url)
    with _as_store_error(url):
        if parts.scheme == "file":
            folder = Path(unquote(parts.path))
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            return Store(url, from_url(folder.absolute().as_uri()))
        options = _client_options(parts.scheme)
        return Store(url, from_url(url, client_options=options, retry_config=_RETRY))


def check_store_url(url: str) -> None:
    """Raise StoreError for a URL that is none of a store, or that has credentials.

    The text of the error leaves them out.
    """
    shown = without_secrets(url)
    if not is_store(url):
        schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise StoreError(f"{shown}: expected the URL of a store, which begins with {schemes}")
    parts = urlsplit(url)
    # S3's names of buckets have no "@" and keys may have any letter: "?" and "#" would be cut off.
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise StoreError(
            f"{shown}: expected no user, no query and no '#': a URL shows in logs and lists of "
            "processes; give credentials in the store's environment, such as AWS_ACCESS_KEY_ID, "
            "AZURE_STORAGE_SAS_TOKEN or GOOGLE_APPLICATION_CREDENTIALS"
        )
    if parts.scheme == "file":
        if parts.netloc or not parts.path:
            raise StoreError(f"{shown}: expected an absolute path, as in file:///srv/models")
    elif not parts.netloc:
        what = "host" if parts.scheme in ("https", "http") else "bucket or container"
        raise StoreError(f"{shown}: expected a {what}, as in {parts.scheme}://NAME/models")


def without_secrets(text: str) -> str:
    """Return a text whose URLs have neither users nor queries."""
    return _URL_SECRETS.sub("", text)


class Store:
    """The files below a URL; made by `open_store`. Its methods may run in several threads."""

    def __init__(self, url: str, store: "ObjectStore") -> None:
        self.url = url
        """The URL, which has no credentials."""
        self._store = store
        self._indexed = urlsplit(url).scheme in ("https", "http")

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """List the files at and below a path in the store, page by page; "": all.

        Raises StoreError, also after some of them.
        """
        if self._indexed:
            yield from (entry for entry in self._index() if _is_below(entry.path, prefix))
            return
        import obstore

        with _as_store_error(self.url):
            for page in obstore.list(self._store, prefix or None, chunk_size=1000):
                for meta in page:
                    yield Entry(meta["path"], meta["size"], meta["e_tag"])

    def fetch(self, entry: Entry, to: Path, *, max_bytes: int | None = None) -> str:
        """Write a file of the store to a new file on disk, and return its SHA-256.

        The store is asked for the content that was listed (If-Match), and its checksum is compared
        where the listing has one. An entry without a tag is read as it is now. max_bytes: Maximum
        size; None: no limit. A file on disk that fails is left for the caller to remove.

        Raises ObjectChangedError if the content is not what was listed, StoreError otherwise,
        OSError for the disk.
        """
        digest, size = hashlib.sha256(), 0
        with to.open("xb") as file:
            for chunk in self._chunks(entry):
                size += len(chunk)
                if max_bytes is not None and size > max_bytes:
                    raise StoreError(
                        f"{self.url}: {entry.path!r}: expected at most {max_bytes} bytes, got more"
                    )
                digest.update(chunk)
                file.write(chunk)
        got = digest.hexdigest()
        if entry.sha256 not in (None, got):
            raise ObjectChangedError(
                f"{self.url}: {entry.path!r}: expected SHA-256 {entry.sha256}, got {got}"
            )
        if entry.size not in (None, size):
            raise ObjectChangedError(
                f"{self.url}: {entry.path!r}: expected {entry.size} bytes, got {size}"
            )
        return got

    def put(self, path: str, content: bytes, *, only_new: bool = False) -> None:
        """Write a file, which appears whole or not at all.

        only_new: Whether to write it only if it does not exist, even if others write it now.

        Raises ObjectExistsError then, and StoreError otherwise, also for an https store.
        """
        if self._indexed:
            raise StoreError(
                f"{self.url}: an index over HTTP can only be read; write to s3://, gs://, az:// or "
                "file://"
            )
        import obstore

        with _as_store_error(self.url):
            obstore.put(self._store, path, content, mode="create" if only_new else "overwrite")

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is none to remove. Raises StoreError."""
        import obstore

        try:
            with _as_store_error(self.url):
                obstore.delete(self._store, path)
        except FileNotFoundError:
            pass

    def _chunks(self, entry: Entry) -> Iterator["Bytes"]:
        import obstore

        options: GetOptions = {} if entry.tag is None else {"if_match": entry.tag}
        try:
            with _as_store_error(self.url):
                found = obstore.get(self._store, entry.path, options=options)
                yield from found.stream(min_chunk_size=_CHUNK_BYTES)
        except FileNotFoundError as error:
            raise ObjectChangedError(f"{self.url}: {entry.path!r} is not there") from error

    def _index(self) -> Iterator[Entry]:
        import obstore

        with _as_store_error(self.url):
            try:
                found = obstore.get(self._store, INDEX_FILE)
                if found.meta["size"] > _MAX_INDEX_BYTES:
                    raise StoreError(
                        f"{self.url}/{INDEX_FILE}: expected at most {_MAX_INDEX_BYTES} bytes, got "
                        f"{found.meta['size']}"
                    )
                text = bytes(found.bytes()).decode()
            except (FileNotFoundError, UnicodeDecodeError) as error:
                raise StoreError(
                    f"{self.url}: expected a file {INDEX_FILE} with a line for each file, as "
                    "sha256sum writes it"
                ) from error
        for line in text.splitlines():
            named = _NAMED_SUM.fullmatch(line)
            if named is None:
                raise StoreError(
                    f"{self.url}/{INDEX_FILE}: expected lines of 64 hexadecimal digits, two "
                    f"spaces and a path, got {line[:100]!r}"
                )
            yield Entry(named[2].removeprefix("./"), None, sha256=named[1])


def _is_below(path: str, prefix: str) -> bool:
    prefix = prefix.rstrip("/")
    return not prefix or path == prefix or path.startswith(f"{prefix}/")


_RETRY: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=15)}
"""obstore's own would go on for three minutes; whoever asks again later has a pause of its own."""


def _client_options(scheme: str) -> "ClientConfig":
    # Options that are given replace all of obstore's own, also those of the environment.
    names = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
    in_clear = any(os.environ.get(name, "").lower() in ("1", "true", "yes") for name in names)
    return {
        "allow_http": scheme == "http" or (scheme != "https" and in_clear),
        # Of a whole answer: 30 s unless told, which a large file takes.
        "timeout": timedelta(days=1),
        "read_timeout": timedelta(seconds=30),
        "connect_timeout": timedelta(seconds=5),
    }


@contextmanager
def _as_store_error(url: str) -> Iterator[None]:
    """Raise what obstore raises as a StoreError, whose text has no credentials.

    FileNotFoundError is raised as it is.
    """
    try:
        yield
    except (StoreError, OSError, GeneratorExit):
        raise
    except BaseException as error:
        from obstore import exceptions

        # obstore's library ends in a panic where it should not: no Exception to Python.
        is_panic = type(error).__name__ == "PanicException"
        if not is_panic and not isinstance(error, exceptions.BaseError | ValueError):
            raise
        # What follows repeats it with all that led to it.
        text = without_secrets(str(error).partition("\n\n")[0])
        kind: type[StoreError] = StoreError
        if isinstance(error, exceptions.PreconditionError):
            kind = ObjectChangedError
        elif isinstance(error, exceptions.AlreadyExistsError):
            kind = ObjectExistsError
        # Not `from error`: a traceback would show the rest.
        raise kind(f"{url}: {text}") from None
