"""Stores by URL: listed, read as listed, written; on a folder and over a real HTTP server."""

import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from forwardpass.proto.stores import (
    Entry,
    ObjectChangedError,
    ObjectExistsError,
    Store,
    StoreError,
    check_store_url,
    is_store,
    open_store,
    without_secrets,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "a store").as_uri(), create=True)


def test_what_was_put_is_listed_and_fetched_with_its_checksum(store: Store, tmp_path: Path) -> None:
    store.put("net/1/model.onnx", b"one")
    store.put("other/1/model.onnx", b"two")
    (entry,) = store.list("net")
    assert (entry.path, entry.size) == ("net/1/model.onnx", 3)
    assert store.fetch(entry, tmp_path / "copy") == hashlib.sha256(b"one").hexdigest()
    assert (tmp_path / "copy").read_bytes() == b"one"
    assert sorted(entry.path for entry in store.list()) == [
        "net/1/model.onnx",
        "other/1/model.onnx",
    ]


def test_what_changed_after_the_listing_is_not_read(store: Store, tmp_path: Path) -> None:
    store.put("model.onnx", b"one")
    (entry,) = store.list()
    store.put("model.onnx", b"other")
    with pytest.raises(ObjectChangedError, match="precondition"):
        store.fetch(entry, tmp_path / "copy")
    store.delete("model.onnx")
    store.delete("model.onnx")
    with pytest.raises(ObjectChangedError, match=r"'model\.onnx' is not there"):
        store.fetch(entry, tmp_path / "gone")


def test_only_new_replaces_nothing(store: Store) -> None:
    store.put("model.onnx", b"one", only_new=True)
    with pytest.raises(ObjectExistsError, match="already exists"):
        store.put("model.onnx", b"two", only_new=True)


def test_a_file_of_more_bytes_than_allowed_is_an_error(store: Store, tmp_path: Path) -> None:
    store.put("model.onnx", b"1234")
    (entry,) = store.list()
    with pytest.raises(StoreError, match="expected at most 3 bytes, got more"):
        store.fetch(entry, tmp_path / "copy", max_bytes=3)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"missing: .*canonicalize"):
        list(open_store((tmp_path / "missing").as_uri()).list())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ftp://host/models", "expected the URL of a store"),
        ("/srv/models", "expected the URL of a store"),
        ("s3:///models", "expected a bucket or container"),
        ("https:///models", "expected a host"),
        ("file://models", "expected an absolute path"),
        ("https://user:SECRET@host/models", "expected no user"),
        ("https://acct.blob.core.windows.net/c?sv=1&sig=SECRET", "AZURE_STORAGE_SAS_TOKEN"),
        ("s3://bucket/models#SECRET", "no '#'"),
    ],
)
def test_a_url_that_is_none_or_has_credentials_is_refused_without_them(
    url: str, expected: str
) -> None:
    with pytest.raises(StoreError, match=expected) as refused:
        check_store_url(url)
    assert "?sv" not in str(refused.value)
    assert "user:" not in str(refused.value)


def test_urls_in_texts_lose_users_and_queries() -> None:
    text = (
        "GET https://me:SECRET@host/c/model.onnx?sig=SECRET%3D failed, as http://host/x?a=SECRET)"
    )
    assert without_secrets(text) == "GET https://host/c/model.onnx failed, as http://host/x)"


def test_paths_are_no_stores() -> None:
    assert is_store("s3://bucket")
    assert not is_store("models")
    assert not is_store("s3:/bucket")
    assert not is_store(Path("s3://bucket"))


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[Path, Store]]:
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield folder, open_store(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_index_lists_what_is_read_by_checksum(index: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = index
    with pytest.raises(StoreError, match="expected a file SHA256SUMS"):
        list(store.list())
    digest = hashlib.sha256(b"one").hexdigest()
    (folder / "net.onnx").write_bytes(b"one")
    (folder / "SHA256SUMS").write_text(f"{digest}  ./net.onnx\n")
    (entry,) = store.list()
    assert entry == Entry("net.onnx", None, sha256=digest)
    assert store.fetch(entry, tmp_path / "copy") == digest
    (folder / "net.onnx").write_bytes(b"two")
    with pytest.raises(ObjectChangedError, match=f"expected SHA-256 {digest}, got"):
        store.fetch(entry, tmp_path / "other")
    with pytest.raises(StoreError, match="can only be read"):
        store.put("net.onnx", b"two")
    (folder / "SHA256SUMS").write_text("nonsense\n")
    with pytest.raises(StoreError, match=r"64 hexadecimal digits.* got 'nonsense'"):
        list(store.list())
