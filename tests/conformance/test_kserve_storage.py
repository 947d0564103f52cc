"""Models as KServe's storage initializer leaves them in a pod, served with the runtime's arguments.

Its package is the code of the init container; the object store is moto's.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conformance.conftest import PROGRAMS
from conformance.environments import OBJECT_STORE, ROOT
from support import onnx_files
from support.command import serving
from support.rpc import Stub
from support.versions import answering, ask, put

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.repository.disk import EmptyRepositoryError, find_models

RUNTIME = next(
    yaml.safe_load_all(
        (ROOT / "deploy" / "kubernetes" / "overlays" / "kserve" / "kserve.yaml").read_text()
    )
)
(CONTAINER,) = RUNTIME["spec"]["containers"]
MODELS = Path("/mnt/models")
# In the store: URI -> where KServe puts it in the container, and what is served then. Without its
# last slash a URI is all names that begin so, `models-old/` among them.
GOOD = {
    "s3://store/models/": (MODELS, {("one", 1): 11, ("one", 2): 12, ("two", 1): 21}),
    "s3://store/models/one/": (MODELS / "one", {("one", 1): 11, ("one", 2): 12}),
    "s3://store/files/alone.onnx": (MODELS, {("alone", 1): 31}),
    "s3://store/models/two/1/model.onnx": (MODELS, {("model", 1): 21}),
}
NAMELESS = "s3://store/models/two/"


@pytest.fixture(scope="module")
def mounted(
    environment: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """What is at /mnt/models of a container, by URI."""
    python = environment(*OBJECT_STORE)
    source = tmp_path_factory.mktemp("source")
    for name, version, number in (("one", 1, 11), ("one", 2, 12), ("two", 1, 21)):
        put(source / "models", name, version, number)
    put(source / "models-old", "three", 1, 41)
    onnx_files.save(answering(31), source / "files" / "alone.onnx")
    command: list[str | Path] = [python, PROGRAMS / "kserve_fetch.py", source]
    roots = {}
    for uri in (*GOOD, NAMELESS):
        roots[uri] = tmp_path_factory.mktemp("mounted")
        place = GOOD[uri][0] if uri in GOOD else MODELS
        command += [uri, roots[uri] / place.relative_to(MODELS)]
    subprocess.run(command, check=True, timeout=300)
    return roots


@pytest.mark.parametrize("uri", GOOD)
def test_what_kserve_fetched_is_served_by_the_runtime_s_arguments(
    uri: str, mounted: dict[str, Path]
) -> None:
    command, *arguments = CONTAINER["args"]
    assert command == "serve"
    here = {str(MODELS): str(mounted[uri]), "0.0.0.0": "127.0.0.1", "8001": "0"}
    with (
        serving(*(here.get(each, each) for each in arguments), "--drain-s", "0") as served,
        Stub(int(served.target.rpartition(":")[2])) as stub,
    ):
        expected = GOOD[uri][1]
        for (name, version), number in expected.items():
            assert ask(stub, name, str(version)) == (version, number)
        index = stub.call(
            "RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse
        )
        assert {(each.name, int(each.version)) for each in index.models} == expected.keys()


def test_versions_without_the_name_of_their_model_are_none(mounted: dict[str, Path]) -> None:
    # A folder of versions at /mnt/models itself: the server waits, and its log says for what.
    assert (mounted[NAMELESS] / "1" / "model.onnx").is_file()
    with pytest.raises(EmptyRepositoryError):
        find_models(mounted[NAMELESS])
