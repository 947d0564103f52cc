"""The in-process twin, beside a server that serves the same files."""

import gc
import gzip
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from support import onnx_files
from support.living import serving
from support.networks import networks, rows

from forwardpass.client import (
    Client,
    ClientClosedError,
    ClientError,
    InvalidInputError,
    ModelFileError,
    ModelNotFoundError,
    ServerError,
    UnimplementedError,
    load,
)
from forwardpass.models import ExportProofError, publish
from forwardpass.models.zoo import ZOO
from forwardpass.proto.metadata import BATCH_INVARIANT, CONTENT, SIGNATURE


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("breast_cancer", "linnerud", "digits_autoencoder"):
        publish(ZOO[name].network(), folder)
    onnx_files.save(onnx_files.pair(), folder / "pair" / "7" / "model.onnx")
    onnx_files.save(onnx_files.identity("BYTES", ["n"]), folder / "text" / "1" / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def client(repository):
    with serving(repository) as served, Client(f"127.0.0.1:{served.server.port}") as client:
        yield client


def twin(repository, name, version="1"):
    return load(repository / name / version / "model.onnx")


@pytest.mark.parametrize("name", ["breast_cancer", "linnerud", "digits_autoencoder"])
@pytest.mark.parametrize("count", [1, 7, 64, 300])
def test_its_answers_are_the_servers_to_the_bit(client, repository, name, count) -> None:
    held_out = ZOO[name].held_out().x
    x = np.resize(held_out, (count, held_out.shape[1]))
    theirs, ours = client.predict(name, x), twin(repository, name).predict(name, x)
    assert list(ours) == list(theirs)
    for output, array in theirs.items():
        assert ours[output].tobytes() == array.tobytes()
        assert ours[output].dtype == array.dtype
    assert (ours.model, ours.version) == (theirs.model, theirs.version)


@given(st.data())
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
def test_its_answers_are_the_servers_for_any_network(
    tmp_path_factory: pytest.TempPathFactory, data
) -> None:
    network = data.draw(networks(st.just(0)))
    x = data.draw(rows(network))
    folder = tmp_path_factory.mktemp("any")
    try:
        path = publish(network, folder).path
    except ExportProofError:
        # Sums of wide layers may be beyond what `exp` has in float32, for every row.
        reject()
    with serving(folder) as served, Client(f"127.0.0.1:{served.server.port}") as client:
        theirs = client.predict("random", x)
    with load(path) as local:
        ours = local.predict("random", x)
    assert {k: v.tobytes() for k, v in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}


def test_its_metadata_are_the_servers_but_for_what_that_finds_out_itself(
    client, repository
) -> None:
    theirs = client.metadata("breast_cancer")
    ours = twin(repository, "breast_cancer").metadata("breast_cancer")
    assert (ours.name, ours.versions, ours.platform) == (
        theirs.name,
        theirs.versions,
        theirs.platform,
    )
    assert [str(each) for each in (*ours.inputs, *ours.outputs)] == [
        str(each) for each in (*theirs.inputs, *theirs.outputs)
    ]
    assert dict(ours.properties) == {
        key: text
        for key, text in theirs.properties.items()
        if key not in (BATCH_INVARIANT, SIGNATURE, CONTENT)
    }


def test_it_takes_what_a_client_takes(repository) -> None:
    local = twin(repository, "linnerud")
    names = ("chins", "situps", "jumps")
    x = ZOO["linnerud"].held_out().x[:5]
    whole = local.predict("linnerud", x)
    assert local.predict("linnerud", dict(zip(names, x.T, strict=True))) == whole
    assert local.predict("linnerud", x, outputs=["pulse"], version="1")["pulse"].shape == (5, 1)
    assert local.predict("linnerud", x[0])["waist"].shape == (1,)
    assert local.predict("linnerud", x, rows_per_call=2) == whole
    assert [p["pulse"] for p in local.predict_stream("linnerud", x)] == list(whole["pulse"])
    assert local.live()
    assert local.ready()
    assert local.model_ready("linnerud")
    assert not local.model_ready("linnerud", "2")
    assert not local.model_ready("pulse")
    assert local.server_metadata().name == "forwardpass"
    assert local.predict("linnerud", x, timing=True).timing.compute_us is None
    for ask in (local.index, local.statistics):
        with pytest.raises(UnimplementedError, match="this is one file; use a Client"):
            ask()


def test_a_file_is_named_as_the_server_names_it(repository, tmp_path: Path) -> None:
    assert twin(repository, "pair", "7").metadata("pair").versions == ("7",)
    flat = tmp_path / "net.onnx"
    flat.write_bytes((repository / "linnerud" / "1" / "model.onnx").read_bytes())
    assert load(str(flat)).metadata("net").versions == ("1",)
    alone = tmp_path / "model.onnx"
    alone.write_bytes(flat.read_bytes())
    assert load(alone).metadata("model").name == "model"


def test_texts_go_in_and_out(repository) -> None:
    local = twin(repository, "text")
    assert local.predict("text", ["a", "ü".encode()])["y"].tolist() == [b"a", "ü".encode()]
    with pytest.raises(InvalidInputError, match="expected BYTES elements in UTF-8"):
        local.predict("text", [b"\xff"])


def test_what_does_not_fit_is_refused_as_by_a_client(repository) -> None:
    local = twin(repository, "pair", "7")
    with pytest.raises(InvalidInputError, match="a dict of arrays for 2 inputs"):
        local.predict("pair", [[1, 2]])
    with pytest.raises(ModelNotFoundError, match="this file is 'pair' version 7"):
        local.predict("other", [[1, 2]])
    with pytest.raises(ModelNotFoundError):
        local.predict("pair", {"a": [[1, 2]], "b": [[1, 2]]}, version="1")
    with pytest.raises(ServerError, match="onnxruntime failed"):
        local.predict("pair", {"a": np.ones((2, 2)), "b": np.ones((3, 2))})


def test_threads_share_it(repository) -> None:
    local = twin(repository, "linnerud")
    x = ZOO["linnerud"].held_out().x
    expected = local.predict("linnerud", x)
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda _: local.predict("linnerud", x) == expected, range(50)))


def test_closed_it_says_so(repository) -> None:
    with twin(repository, "linnerud") as local:
        pass
    assert "LocalClient" in repr(local)
    with pytest.raises(ClientClosedError):
        local.predict("linnerud", [1, 2, 3])


def sessions():
    return {each for each in gc.get_objects() if isinstance(each, onnxruntime.InferenceSession)}


def test_closed_it_lets_go_of_the_model(repository) -> None:
    before = sessions()
    local = twin(repository, "linnerud")
    local.predict("linnerud", [1, 2, 3])
    assert len(sessions() - before) == 1
    local.close()
    assert not sessions() - before


def test_closing_in_the_middle_of_calls_costs_no_answer_under_way(repository) -> None:
    x = np.resize(ZOO["linnerud"].held_out().x, (1000, 3))
    expected = twin(repository, "linnerud").predict("linnerud", x)
    for _ in range(5):
        local = twin(repository, "linnerud")
        answered = threading.Semaphore(0)

        def calls(local=local, answered=answered):
            while True:
                try:
                    assert local.predict("linnerud", x) == expected
                except ClientClosedError as error:
                    return str(error)
                answered.release()

        with ThreadPoolExecutor(4) as threads:
            ends = [threads.submit(calls) for _ in range(4)]
            for _ in range(8):
                assert answered.acquire(timeout=20)
            local.close()
            assert all("this client was closed" in end.result(20) for end in ends)


def test_a_forked_process_goes_on_with_it(repository) -> None:
    path = repository / "linnerud" / "1" / "model.onnx"
    program = f"""
import os
from forwardpass.client import load
local = load({str(path)!r})
expected = local.predict("linnerud", [1, 2, 3])
if os.fork() == 0:
    print(local.predict("linnerud", [1, 2, 3]) == expected, flush=True)
    os._exit(0)
_, status = os.wait()
print(status, local.predict("linnerud", [1, 2, 3]) == expected)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, text=True
    )
    assert done.stdout.split() == ["True", "0", "True"], done.stderr


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "got nothing at this path; check the path"),
        (b"", "got an empty file; copy or export it again"),
        (b"\nnot a model\n", "got text, which begins with 'not a model'; export the network"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS in place of the"),
        (b"PK\x03\x04", "got a zip archive, as those of Keras, NumPy and PyTorch are; export"),
        (pickle.dumps({"W": 1}), "got a pickle of Python; export the network"),
        (gzip.compress(b"model", mtime=0), "got a gzip file; unpack it first"),
        (bytes(range(256)), "got a file that is cut off or damaged, or of another kind; copy"),
    ],
    ids=["none", "empty", "text", "pointer", "zip", "pickle", "gzip", "noise"],
)
def test_a_file_that_is_no_model_is_reported_by_what_it_is(tmp_path, content, text) -> None:
    path = tmp_path / "junk.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError) as refusal:
        load(path)
    said = str(refusal.value)
    assert said.startswith(f"{path}: expected the .onnx file of a model, got ")
    assert text in said
    assert isinstance(refusal.value, ClientError)
    assert isinstance(refusal.value, ValueError)
    assert str(pickle.loads(pickle.dumps(refusal.value))) == said


def test_a_file_that_is_cut_off_is_reported_wherever_that_is(repository, tmp_path) -> None:
    whole = (repository / "linnerud" / "1" / "model.onnx").read_bytes()
    for size in (2, 9, len(whole) // 2, len(whole) - 3):
        (tmp_path / "cut.onnx").write_bytes(whole[:size])
        with pytest.raises(ModelFileError, match="got a file that is cut off or damaged"):
            load(tmp_path / "cut.onnx")


def test_a_folder_is_refused_with_the_file_in_it(repository, tmp_path) -> None:
    for folder in (repository, repository / "linnerud", repository / "linnerud" / "1"):
        with pytest.raises(ModelFileError, match=r"got a folder; pass the path of the file, as '"):
            load(folder)
    with pytest.raises(ModelFileError, match="got a folder; export the network"):
        load(tmp_path)


def test_what_onnxruntime_rejects_has_its_reason(tmp_path) -> None:
    node = onnx.helper.make_node("Unheard", ["x"], ["y"])
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"
    ]
    graph = onnx.helper.make_graph([node], "g", tensors[:1], tensors[1:])
    onnx.save(onnx.helper.make_model(graph, ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match=r"one that onnxruntime rejects .*Unheard"):
        load(tmp_path / "m.onnx")


def test_without_onnxruntime_the_error_says_what_to_install(repository) -> None:
    path = repository / "linnerud" / "1" / "model.onnx"
    program = f"""
import sys
sys.modules["onnxruntime"] = None
from forwardpass.client import load
try:
    load({str(path)!r})
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'forwardpass[server]'" in done.stdout, done.stderr


def test_telemetry_is_off_and_no_thread_is_started(repository) -> None:
    path = repository / "linnerud" / "1" / "model.onnx"
    program = f"""
import os
from forwardpass.client import load
before = len(os.listdir("/proc/self/task"))
local = load({str(path)!r})
local.predict("linnerud", [1, 2, 3])
print(os.environ["ORT_DISABLE_TELEMETRY"], len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "0"], done.stderr


def test_bytes_are_a_file_whose_name_the_path_gives(repository, tmp_path) -> None:
    path = repository / "linnerud" / "1" / "model.onnx"
    local = load("linnerud.onnx", content=path.read_bytes(), threads=2)
    again = pickle.loads(pickle.dumps(local))
    for client in (local, again):
        assert client.model == "linnerud"
        assert client.predict("linnerud", [1, 2, 3]) == load(path).predict("linnerud", [1, 2, 3])
    with pytest.raises(ModelFileError, match="an empty file"):
        load("linnerud.onnx", content=b"")
    with pytest.raises(ModelFileError, match="text, which begins with 'hello'"):
        load("linnerud.onnx", content=b"hello")


def test_a_file_is_proven_by_the_samples_that_it_carries(repository, tmp_path) -> None:
    assert load(repository / "breast_cancer" / "1" / "model.onnx").prove() is True
    assert load(repository / "pair" / "7" / "model.onnx").prove() is False
    model = onnx.load(repository / "linnerud" / "1" / "model.onnx")
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            changed = onnx.numpy_helper.to_array(weights) * np.float32(1.01)
            weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    local = load("linnerud.onnx", content=model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"a wrong output .* of its samples: expected"):
        local.prove()
    local.close()
    with pytest.raises(ClientClosedError):
        local.prove()
