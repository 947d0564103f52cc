"""The in-process twin, beside a server that serves the same files."""

import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import onnx_files
from support.living import serving
from support.networks import networks, rows

from forwardpass.client import (
    Client,
    ClientClosedError,
    InvalidInputError,
    ModelNotFoundError,
    ServerError,
    UnimplementedError,
    load,
)
from forwardpass.models import publish
from forwardpass.models.zoo import ZOO
from forwardpass.proto.metadata import BATCH_INVARIANT


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
def test_its_answers_are_the_servers_to_the_bit(client, repository, name, count):
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
def test_its_answers_are_the_servers_for_any_network(tmp_path_factory, data):
    network = data.draw(networks(st.just(0)))
    x = data.draw(rows(network))
    folder = tmp_path_factory.mktemp("any")
    path = publish(network, folder).path
    with serving(folder) as served, Client(f"127.0.0.1:{served.server.port}") as client:
        theirs = client.predict("random", x)
    with load(path) as local:
        ours = local.predict("random", x)
    assert {k: v.tobytes() for k, v in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}


def test_its_metadata_are_the_servers_but_for_what_that_finds_out_itself(client, repository):
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
        key: text for key, text in theirs.properties.items() if key != BATCH_INVARIANT
    }


def test_it_takes_what_a_client_takes(repository):
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
        with pytest.raises(UnimplementedError, match="this is one file; ask a Client"):
            ask()


def test_a_file_is_named_as_the_server_names_it(repository, tmp_path):
    assert twin(repository, "pair", "7").metadata("pair").versions == ("7",)
    flat = tmp_path / "net.onnx"
    flat.write_bytes((repository / "linnerud" / "1" / "model.onnx").read_bytes())
    assert load(str(flat)).metadata("net").versions == ("1",)
    alone = tmp_path / "model.onnx"
    alone.write_bytes(flat.read_bytes())
    assert load(alone).metadata("model").name == "model"


def test_texts_go_in_and_out(repository):
    local = twin(repository, "text")
    assert local.predict("text", ["a", "ü".encode()])["y"].tolist() == [b"a", "ü".encode()]
    with pytest.raises(InvalidInputError, match="expected BYTES elements in UTF-8"):
        local.predict("text", [b"\xff"])


def test_what_does_not_fit_is_refused_as_by_a_client(repository):
    local = twin(repository, "pair", "7")
    with pytest.raises(InvalidInputError, match="a dict of arrays for 2 inputs"):
        local.predict("pair", [[1, 2]])
    with pytest.raises(ModelNotFoundError, match="this file is 'pair' version 7"):
        local.predict("other", [[1, 2]])
    with pytest.raises(ModelNotFoundError):
        local.predict("pair", {"a": [[1, 2]], "b": [[1, 2]]}, version="1")
    with pytest.raises(ServerError, match="onnxruntime failed"):
        local.predict("pair", {"a": np.ones((2, 2)), "b": np.ones((3, 2))})


def test_threads_share_it(repository):
    local = twin(repository, "linnerud")
    x = ZOO["linnerud"].held_out().x
    expected = local.predict("linnerud", x)
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda _: local.predict("linnerud", x) == expected, range(50)))


def test_closed_it_says_so(repository):
    with twin(repository, "linnerud") as local:
        pass
    assert "LocalClient" in repr(local)
    with pytest.raises(ClientClosedError):
        local.predict("linnerud", [1, 2, 3])


def sessions():
    return {each for each in gc.get_objects() if isinstance(each, onnxruntime.InferenceSession)}


def test_closed_it_lets_go_of_the_model(repository):
    before = sessions()
    local = twin(repository, "linnerud")
    local.predict("linnerud", [1, 2, 3])
    assert len(sessions() - before) == 1
    local.close()
    assert not sessions() - before


def test_closing_in_the_middle_of_calls_costs_no_answer_under_way(repository):
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


def test_a_forked_process_goes_on_with_it(repository):
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


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model file '.*nowhere\.onnx'; pass the path"):
        load(tmp_path / "nowhere.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"this is no model")
    with pytest.raises(ValueError, match=r"broken\.onnx: onnxruntime refuses it"):
        load(tmp_path / "broken.onnx")


def test_without_onnxruntime_the_error_says_what_to_install(repository):
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


def test_telemetry_is_off_and_no_thread_is_started(repository):
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
