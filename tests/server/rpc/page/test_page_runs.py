"""A run of the page: outputs with the bits of REST, tensors within the file's bound, uncounted."""

import gc
import json
import re
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
from support import onnx_files, pages, rest, triton_models
from support.foreign import node, written
from support.rest import Rest
from support.rpc import Stub
from support.versions import put
from support.waiting import eventually
from support.wire import infer_request

from forwardpass.models import expose, publish, rounding_bound
from forwardpass.models.zoo import ZOO
from forwardpass.server.app import Server
from forwardpass.server.config import Transport
from forwardpass.server.guard import Limits
from forwardpass.server.rpc.page import lately, numbers, page
from forwardpass.server.rpc.rest.infer_replies import dumps

NAME = "breast_cancer"
W = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
IMAGE = """
name: "image"
platform: "onnxruntime_onnx"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 12 reshape { shape: [ 3, 2, 2 ] } }
output { name: "scores" data_type: TYPE_FP32 dims: 12 reshape { shape: [ 12, 1, 1 ] } }
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for example in ZOO.values():
        publish(example.network(), root)
    onnx_files.save(onnx_files.pair(), root / "pair" / "1" / "model.onnx")
    onnx_files.save(onnx_files.identity("FP32", ["n", 2]), root / "same" / "1" / "model.onnx")
    onnx_files.save(onnx_files.identity("FP32", ["n", 2, 2]), root / "cube" / "1" / "model.onnx")
    onnx_files.save(onnx_files.identity("BYTES", ["n", 2]), root / "texts" / "1" / "model.onnx")
    onnx_files.save(onnx_files.identity("INT64", ["n", 2]), root / "whole" / "1" / "model.onnx")
    onnx_files.save(onnx_files.pick(), root / "pick" / "1" / "model.onnx")
    return root


@pytest.fixture(scope="module")
def served(models: Path, transport: Transport) -> Iterator[tuple[Server, Rest]]:
    with pages.served(models, transport=transport, limits=Limits(general=True)) as both:
        yield both


@pytest.fixture
def client(served: tuple[Server, Rest]) -> Iterator[Rest]:
    with Rest(served[0].http_port) as client:
        yield client


def by_input(name: str, x: Any) -> dict[str, Any]:
    """Held-out rows by input, texts as the wire has them."""
    parts = x if isinstance(x, dict) else {ZOO[name].network().input.name: x}
    return {
        key: np.char.encode(part).astype(object) if part.dtype.kind == "U" else part
        for key, part in parts.items()
    }


def listed(part: Any) -> list[Any]:
    """Rows as JSON has them: NaN is a word, and bytes are texts."""
    rows = part.astype(str) if part.dtype == object else part.astype(object)
    return list(np.where(part != part, "NaN", rows).tolist())


def rows_of(name: str, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(ZOO[name].held_out().x[:count], np.float32)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("count", [1, 7, 64])
def test_every_number_of_a_run_is_that_of_rest_and_of_the_network(
    client: Rest, name: str, count: int
) -> None:
    network, held_out = ZOO[name].network(), ZOO[name].held_out()[:count]
    x = held_out.x
    sent = by_input(name, x)
    found = pages.run(client, name, {key: listed(part) for key, part in sent.items()})
    request = infer_request(name, sent)
    body, _ = rest.infer_body(request, binary=False, binary_outputs=False)
    expected = rest.arrays(client.post(rest.infer_path(request), body))

    assert found["version"] == "1"
    assert list(found["outputs"]) == list(expected)
    for output, array in expected.items():
        np.testing.assert_array_equal(pages.array(found["outputs"][output]), array)
    assert found["layers_error"] == ""
    model = client.get(pages.model_path(name)).json
    assert found["content"] == model["content"]
    assert model["grpc_port"] > 0
    drawn = model["tensors"]
    assert list(found["layers"]) == [tensor["name"] for tensor in drawn]
    shown = expose(network, "a")
    values, bounds = shown(x), rounding_bound(shown, x)
    titles = {tensor["title"]: tensor["name"] for tensor in drawn}
    checked = set()
    for each in shown.outputs:
        layer = shown.layer(each.layer)
        if each.of == "a" or layer.activation == "identity":
            inner = pages.array(found["layers"][titles[layer.name]])
            assert inner.shape == (len(held_out), layer.units)
            error = np.abs(np.float64(inner) - values[each.name])
            assert (error <= bounds[each.name]).all()
            checked.add(layer.name)
    assert checked == {layer.name for layer in network.layers}


def test_the_same_rows_as_nested_lists_have_the_same_bits(client: Rest) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    found = pages.run(client, "cube", {"x": x})
    np.testing.assert_array_equal(pages.array(found["outputs"]["y"]), x)
    # It is no table.
    assert found["layers"] == {}
    assert "table" in found["layers_error"]


def test_numbers_are_the_shortest_that_have_the_same_bits(client: Rest) -> None:
    rows: list[list[Any]] = [
        ["NaN", "Infinity"],
        ["-Infinity", 0.1],
        [1e-45, -0.0],
        [16777216, 3.4028235e38],
    ]
    found = pages.run(client, "same", {"x": rows})
    assert found["outputs"]["y"] == found["layers"]["y"]
    sent = np.array([[float(each) for each in row] for row in rows], np.float32)
    got = np.array([[float(each) for each in row] for row in found["outputs"]["y"]])
    np.testing.assert_array_equal(got.astype(np.float32).view(np.uint32), sent.view(np.uint32))
    assert found["outputs"]["y"][:2] == rows[:2]
    assert found["verdicts"] == {"y": [None] * 4}


def test_texts_and_integers_run_too(client: Rest) -> None:
    texts = [["one", "zwölf"]]
    found = pages.run(client, "texts", {"x": texts})
    assert found["outputs"] == {"y": texts}
    assert found["layers"] == {}
    numbers = [[1, 2**62]]
    assert pages.run(client, "whole", {"x": numbers})["outputs"] == {"y": numbers}


def test_all_inputs_run_together(client: Rest) -> None:
    found = pages.run(client, "pair", {"a": [[1, 2]], "b": [[3, 5]]})
    assert found["outputs"] == {"total": [[4, 7]], "difference": [[-2, -3]]}
    assert found["layers"] == found["outputs"]


def test_verdicts_are_those_of_predict(client: Rest) -> None:
    x = rows_of(NAME, 5)
    verdicts = pages.run(client, NAME, {"x": x})["verdicts"]
    labels = client.get(pages.model_path(NAME)).json["inputs"][0]["labels"]
    listed = [dict(zip(labels, row, strict=True)) for row in x.tolist()]
    predicted = client.post(f"/v2/models/{NAME}:predict", listed).json["predictions"]
    assert verdicts["malignancy"] == [each["malignancy"]["label"] for each in predicted]
    assert verdicts["worst"] == [None] * 5


def test_a_run_is_explained_with_the_numbers_of_infer(client: Rest) -> None:
    x = rows_of(NAME, 3)
    network = ZOO[NAME].network()
    path = f"{pages.model_path(NAME)}/run"
    body: dict[str, Any] = {"inputs": {"x": x.tolist()}}

    def asked(explain: Any) -> rest.Answer:
        sent = json.dumps(body | {"explain": explain}).encode()
        return client.post(path, sent, Content_Type="application/json")

    answer = asked("worst:2").json
    wanted = network.explain(x, "worst", 2)
    explanation = answer["explanation"]
    assert explanation["features"] == list(network.input.features)
    np.testing.assert_allclose(explanation["attributions"], wanted.attributions, atol=1e-4)
    np.testing.assert_allclose(explanation["error"], wanted.error, atol=1e-4)
    assert list(answer["outputs"]) == [output.name for output in network.outputs]
    assert "explanation" not in pages.run(client, NAME, {"x": x})
    for wrong in ("risk", 3):
        refused = asked(wrong)
        assert (refused.status, "explain" in refused.error) == (400, True)


def test_what_does_not_fit_is_refused_with_the_texts_of_rest(client: Rest) -> None:
    for inputs, status, text in (
        ({"x": [[1.0, 2.0]]}, 400, "axis 1 must be 30 long, not 2"),
        ({"y": [[1.0] * 30]}, 400, "expected one of 'x', got 'y'"),
        ({"x": [[1.0] * 30] * 65}, 400, "expected a list of 1 to 64 rows, got 65 rows"),
        ({"x": []}, 400, "expected a list of 1 to 64 rows, got 0 rows"),
        ({"x": [["a"] * 30]}, 400, "expected numbers, got a string"),
        ({"x": [[1.0] * 30, [1.0]]}, 400, "input 'x'"),
        ({}, 400, "input 'x'"),
    ):
        answer = pages.ask_run(client, NAME, inputs)
        assert (answer.status, text in answer.error) == (status, True), answer.error
    assert pages.ask_run(client, "unknown", {"x": [[1]]}).status == 404
    assert pages.ask_run(client, NAME, {"x": [[1.0] * 30]}, version="7").status == 404
    assert "look_up" in pages.ask_run(client, "pick", {"index": [9]}).error
    path = f"{pages.model_path(NAME)}/run"
    for body in (b"", b"[]", b"{", b'{"inputs": []}', b'{"inputs": {"x": 1}}', b'{"inputs": {}, '):
        assert client.post(path, body, Content_Type="application/json").status == 400, body
    twice = b'{"inputs": {"x": [[1]], "x": [[1]]}}'
    assert "twice" in client.post(path, twice, Content_Type="application/json").error
    deep = b'{"inputs": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    assert client.post(path, deep, Content_Type="application/json").status == 400


def test_a_body_is_as_large_as_that_of_predict_and_says_that_it_is_json(client: Rest) -> None:
    path = f"{pages.model_path(NAME)}/run"
    body = json.dumps({"inputs": {"x": rows_of(NAME, 64).tolist()}}).encode()
    padded = body + b" " * (2**19 - len(body))
    assert client.post(path, padded, Content_Type="application/json").status == 200
    # What a foreign page can send without asking.
    for fields in ({}, {"Content_Type": "text/plain"}):
        assert client.post(path, b"{}", **fields).status == 415
    assert client.get(path).status == 405
    # The connection ends, rather than be read to the end.
    refused = client.post(path, padded + b" ", Content_Type="application/json")
    assert refused.status == 413
    assert "send fewer rows" in refused.error


def test_runs_are_counted_as_calls_of_the_page_alone(models: Path, transport: Transport) -> None:
    x = rows_of(NAME, 3)
    with pages.served(models, transport=transport, metrics_port=0) as (server, client):
        before = pages.overview(client)["process"]["page_calls"]
        statistics = client.get(f"/v2/models/{NAME}/stats").json
        drift = client.get(pages.model_path(NAME)).json["drift"]
        model = server.catalog.find(NAME)
        for _ in range(5):
            pages.run(client, NAME, {"x": x})
        assert pages.ask_run(client, NAME, {"x": [[1]]}).status == 400
        assert pages.overview(client)["process"]["page_calls"] == before + 6
        assert pages.of_model(client, NAME)["calls"] == 0
        assert pages.of_model(client, NAME)["errors"] == {}
        assert client.get(f"/v2/models/{NAME}/stats").json == statistics
        assert not model.statistics.used
        assert client.get(pages.model_path(NAME)).json["drift"] == drift
        assert drift[0]["rows"] == 0


def test_the_second_session_is_let_go_when_no_page_asks(
    models: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lately, "KEPT_S", 0.3)
    with pages.served(models, transport=transport) as (server, client):
        kept = server._front.page()._lately._kept
        assert not kept
        x = rows_of(NAME, 1)
        assert pages.run(client, NAME, {"x": x})["layers"]
        eventually(lambda: not kept)
        eventually(lambda: server._front.page()._lately._timer is None)
        assert pages.run(client, NAME, {"x": x})["layers"]
        eventually(lambda: not kept)


def test_only_few_models_are_kept(models: Path, transport: Transport) -> None:
    with pages.served(models, transport=transport) as (server, client):
        for name in ZOO:
            assert client.get(pages.model_path(name)).status == 200
        assert len(server._front.page()._lately._kept) <= 4


def test_a_file_that_changed_on_disk_gives_outputs_and_says_why_there_are_no_layers(
    tmp_path: Path, transport: Transport
) -> None:
    publish(ZOO["linnerud"].network(), tmp_path)
    file = tmp_path / "linnerud" / "1" / "model.onnx"
    with pages.served(tmp_path, transport=transport, watch=False) as (_, client):
        x = rows_of("linnerud", 2)
        before = file.read_bytes()
        onnx_files.save(onnx_files.linear(), file)
        found = pages.run(client, "linnerud", {"x": x})
        assert (found["layers"], bool(found["outputs"])) == ({}, True)
        assert "not the one that answers" in found["layers_error"]
        shown = client.get(pages.model_path("linnerud")).json
        assert (shown["tensors"], shown["edges"]) == ([], [])
        assert "not the one that answers" in shown["tensors_error"]
        file.write_bytes(b"no model")
        lately_kept = pages.run(client, "linnerud", {"x": x})
        assert lately_kept["outputs"] == found["outputs"]
        file.write_bytes(before)


def test_a_file_that_is_gone_gives_outputs(tmp_path: Path, transport: Transport) -> None:
    publish(ZOO["linnerud"].network(), tmp_path)
    with pages.served(tmp_path, transport=transport, watch=False) as (_, client):
        (tmp_path / "linnerud" / "1" / "model.onnx").unlink()
        found = pages.run(client, "linnerud", {"x": rows_of("linnerud", 2)})
        assert found["outputs"]
        assert str(tmp_path) not in found["layers_error"] != ""


def test_a_file_that_is_not_plain_has_no_layers(client: Rest) -> None:
    found = pages.run(client, "pick", {"index": [0, 3]})
    assert found["outputs"] == {"y": [10, 40]}
    assert found["layers"] == {}
    assert found["layers_error"]


def test_too_many_numbers_are_not_shown(client: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    # As many as the outputs of a row.
    monkeypatch.setattr(page, "_MAX_NUMBERS", 11)
    found = pages.run(client, NAME, {"x": rows_of(NAME, 1)})
    assert found["layers"] == {}
    assert re.search("more than 11; send fewer rows", found["layers_error"])
    assert "send fewer rows" in pages.ask_run(client, NAME, {"x": rows_of(NAME, 64)}).error


def test_rows_with_too_many_answers_are_refused_before_they_run(
    tmp_path: Path, transport: Transport
) -> None:
    W = np.ones((1, 2**17), np.float32)
    onnx_files.save(
        written([node("MatMul", "x W", "y")], {"W": W}, width=1),
        tmp_path / "wide" / "1" / "model.onnx",
    )
    with pages.served(tmp_path, transport=transport) as (_, client):
        assert pages.run(client, "wide", {"x": [[1]]})["outputs"]["y"] == [[1.0] * 2**17]
        tracemalloc.start()
        try:
            error = pages.ask_run(client, "wide", {"x": [[1]] * 64}).error
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert f"got {64 * 2**17}; send fewer rows" in error
    assert most < W.nbytes


def test_a_large_file_has_no_layers(
    models: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lately, "_MAX_BYTES", 1000)
    with pages.served(models, transport=transport) as (_, client):
        found = pages.run(client, NAME, {"x": rows_of(NAME, 1)})
    assert "more than the 1000" in found["layers_error"]


def test_a_file_that_will_never_have_layers_is_read_once(
    tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lately, "_MAX_BYTES", 1000)
    monkeypatch.setattr(lately, "_AGAIN_S", 0.0)
    publish(ZOO["linnerud"].network(), tmp_path)
    x = {"x": rows_of("linnerud", 1)}
    with pages.served(tmp_path, transport=transport, watch=False) as (_, client):
        before = pages.run(client, "linnerud", x)["layers_error"]
        assert "more than the 1000" in before
        # Read again, it would be another one now.
        (tmp_path / "linnerud" / "1" / "model.onnx").write_bytes(b"no model")
        assert pages.run(client, "linnerud", x)["layers_error"] == before


def test_what_is_kept_waits_for_no_other_model_that_is_read(
    models: Path, transport: Transport
) -> None:
    x = rows_of(NAME, 2)
    with pages.served(models, transport=transport) as (server, client):
        before = pages.run(client, NAME, {"x": x})
        assert before["layers"]
        with server._front.page()._lately._making:
            assert pages.run(client, NAME, {"x": x}) == before
            assert client.get(pages.model_path(NAME)).status == 200


def test_what_infer_refuses_is_refused_with_its_text(tmp_path: Path, transport: Transport) -> None:
    """Rounded to integers NaN is a number, so that such a model does not take it."""
    model = written(
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")],
        {"s": np.float32(0.5), "z": np.uint8(0)},
    )
    onnx_files.save(model, tmp_path / "rounded" / "1" / "model.onnx")
    row = ["NaN", 1, 2]
    with pages.served(tmp_path, transport=transport) as (_, client):
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": row}
        expected = client.post("/v2/models/rounded/infer", {"inputs": [tensor]})
        got = pages.ask_run(client, "rounded", {"x": [row]})
        assert (got.status, got.error) == (400, expected.error)


def test_rows_that_run_in_pieces_have_the_same_bits(models: Path, transport: Transport) -> None:
    x = rows_of(NAME, 64)
    with pages.served(models, transport=transport) as (server, client):
        whole = pages.run(client, NAME, {"x": x})
        server.catalog.find(NAME).piece_rows = 5
        assert pages.run(client, NAME, {"x": x}) == whole


def test_rows_that_depend_on_one_another_run_as_infer_runs_them(
    tmp_path: Path, transport: Transport
) -> None:
    model = written([node("Softmax", "x", "s", axis=0), node("MatMul", "s W", "y")], {"W": W})
    onnx_files.save(model, tmp_path / "mixed" / "1" / "model.onnx")
    x = np.array([[1, 2, 3], [3, 2, 1], [0, 0, 0]], np.float32)
    with pages.served(tmp_path, transport=transport) as (server, client):
        assert server.catalog.find("mixed").findings.bounded
        found = pages.run(client, "mixed", {"x": x})
        request = infer_request("mixed", {"x": x})
        body, _ = rest.infer_body(request, binary=False, binary_outputs=False)
        expected = rest.arrays(client.post(rest.infer_path(request), body))
        np.testing.assert_array_equal(pages.array(found["outputs"]["y"]), expected["y"])
        assert found["layers"]["y"] == found["outputs"]["y"]
        np.testing.assert_allclose(pages.array(found["layers"]["s"]).sum(axis=0), 1, rtol=1e-6)


def test_a_model_in_another_shape_runs_in_that_of_its_callers(
    tmp_path: Path, transport: Transport
) -> None:
    onnx_files.save(triton_models.flattened_image(), tmp_path / "image" / "1" / "model.onnx")
    (tmp_path / "image" / "config.pbtxt").write_text(IMAGE)
    row = list(range(12))
    with pages.served(tmp_path, transport=transport) as (_, client):
        found = pages.run(client, "image", {"x": [row, row]})
        assert found["outputs"] == {"scores": [row, row]}
        assert client.get(pages.model_path("image")).json["samples"] == []


def test_a_run_waits_for_its_turn_and_then_answers(models: Path, transport: Transport) -> None:
    """Beside callers without a pause, whose runs take the runner all the time."""
    x = rows_of(NAME, 64)
    request = infer_request(NAME, {"x": rows_of(NAME, 1).repeat(2000, axis=0)})
    with pages.served(models, transport=transport) as (server, client), Stub(server.port) as stub:
        alone = pages.run(client, NAME, {"x": x})
        ended = threading.Event()

        def call() -> None:
            while not ended.is_set():
                stub.infer(request)

        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(call) for _ in range(4)]
            try:
                for _ in range(20):
                    assert pages.run(client, NAME, {"x": x}) == alone
            finally:
                ended.set()
            for each in calls:
                each.result(60)


def test_a_model_that_is_replaced_is_drawn_and_run_anew(
    tmp_path: Path, transport: Transport
) -> None:
    put(tmp_path, "m", 1, 1)
    with pages.served(tmp_path, transport=transport) as (server, client):
        assert pages.run(client, "m", {"x": [[1, 2]]})["layers"] == {"y": [[2, 3]]}
        before = ref(server.catalog.find("m"))
        put(tmp_path, "m", 1, 5)

        def is_new() -> bool:
            found = pages.run(client, "m", {"x": [[1, 2]]})
            return bool(found["layers"] == found["outputs"] == {"y": [[6, 7]]})

        eventually(is_new)

        # With its second session.
        def is_gone() -> bool:
            gc.collect()
            return before() is None

        eventually(is_gone)
        assert len(server._front.page()._lately._kept) == 1


def test_answers_are_written_as_they_are_at_once() -> None:
    values = {
        'na"me': [],
        "rows": np.arange(10_000).reshape(-1, 2).tolist(),
        "flat": [None, "NaN", -0.0, *np.linspace(0, 1, 10_000).tolist()],
        "more": [{}, {"é": [[[]], [[1.5]]]}, True],
    }
    assert numbers.written(values) == dumps(values)
    array = np.random.default_rng(1).normal(size=(3, 5000)).astype(np.float32)
    np.testing.assert_array_equal(pages.array(numbers.listed(array)), array)


def test_nothing_is_kept_of_a_call_that_ends_after_the_server(
    models: Path, transport: Transport
) -> None:
    with pages.served(models, transport=transport, grace_s=0.0) as (server, client):
        page = server._front.page()
        model = server.catalog.find(NAME)
        assert client.get(pages.model_path(NAME)).status == 200
        assert page._lately._timer is not None
    assert page._lately.drawing(model).why == ""
    assert not page._lately._kept
    assert page._lately._timer is None
    with pages.served(models, transport=transport) as (other, _):
        model = other.catalog.find(NAME)
    late = other._front.page()
    assert late._lately.drawing(model).why == ""
    assert not late._lately._kept
