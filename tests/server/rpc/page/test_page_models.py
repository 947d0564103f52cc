"""What the page draws of a model is what is in its file."""

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from onnx import ModelProto, TensorProto, helper
from support import pages
from support.foreign import node, written
from support.networks import networks
from support.onnx_files import save
from support.rest import Rest
from support.versions import put

from forwardpass.models import Categorical, Dense, Input, Network, Output, publish, quantize
from forwardpass.models.file.graph import serialize, to_onnx
from forwardpass.models.zoo import ZOO
from forwardpass.proto import metadata
from forwardpass.server.app import Server
from forwardpass.server.config import Transport
from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.guard.parse import parse
from forwardpass.server.rpc.page import anatomy, page
from forwardpass.server.rpc.page.anatomy import Anatomy, TooManyTensorsError, read_anatomy

RNG = np.random.default_rng(7)


def values(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return RNG.normal(size=shape).astype(np.float32)


W1, W2, W3 = values(3, 4), values(4, 4), values(4, 2)
B1, B2 = values(4), values(2)
FOREIGN: dict[str, ModelProto] = {
    "keras": written(
        [
            node("MatMul", "x W1", "m1"),
            node("Add", "m1 b1", "z1"),
            node("Relu", "z1", "h"),
            node("MatMul", "h W3", "m2"),
            node("Add", "m2 b2", "z2"),
            node("Softmax", "z2", "y"),
        ],
        {"W1": W1, "W3": W3, "b1": B1, "b2": B2},
    ),
    "swish": written(
        [
            node("Gemm", "x W1 b1", "z"),
            node("Sigmoid", "z", "s"),
            node("Mul", "z s", "h"),
            node("Gemm", "h W3 b2", "y"),
        ],
        {"W1": W1, "W3": W3, "b1": B1, "b2": B2},
    ),
    "residual": written(
        [
            node("Gemm", "x W1 b1", "z"),
            node("Relu", "z", "h"),
            node("MatMul", "h W2", "m"),
            node("Add", "m h", "sum"),
            node("Tanh", "sum", "y"),
        ],
        {"W1": W1, "W2": W2, "b1": B1},
    ),
    "towers": written(
        [
            node("Gemm", "a W1", "left"),
            node("Gemm", "b W1", "right"),
            node("Add", "left right", "sum"),
            node("Relu", "sum", "h"),
            node("Concat", "h a", "joined", axis=1),
            node("Identity", "joined", "y"),
        ],
        {"W1": W1},
        inputs={"a": 3, "b": 3},
    ),
    "transposed": written(
        [
            node("Transpose", "W", "T", perm=[1, 0]),
            node("Identity", "x", "d"),
            node("MatMul", "d T", "y"),
        ],
        {"W": W1.T.copy()},
    ),
    "constants": written(
        [
            node("Constant", "", "c", value=helper.make_tensor("c", 1, W1.shape, W1.ravel())),
            node("Identity", "c", "W"),
            node("Flatten", "x", "f"),
            node("Gemm", "f W", "y", alpha=2.0),
        ],
        {},
    ),
    "doubles": written(
        [node("MatMul", "x W1", "z"), node("Relu", "z", "y")],
        {"W1": W1.astype(np.float64)},
        kind=TensorProto.DOUBLE,
    ),
    "added": written(
        [node("Gemm", "x W1 b1", "z"), node("Add", "z z", "h"), node("Gemm", "h W3 h2", "y")],
        {"W1": W1, "W3": W3, "b1": B1, "h2": B2},
    ),
}
DRAWN: dict[str, tuple[list[tuple[str, int, str, int]], dict[tuple[str, str], Any]]] = {
    "keras": (
        [("h", 4, "Relu", 1), ("y", 2, "Softmax", 2)],
        {("x", "h"): W1.T, ("h", "y"): W3.T},
    ),
    "swish": (
        [("h", 4, "Mul", 1), ("y", 2, "Gemm", 2)],
        {("x", "h"): W1.T, ("h", "y"): W3.T},
    ),
    # What is added to itself comes two ways.
    "residual": (
        [("h", 4, "Relu", 1), ("y", 4, "Tanh", 2)],
        {("x", "h"): W1.T, ("h", "y"): None},
    ),
    "towers": (
        [("h", 4, "Relu", 1), ("y", 7, "Identity", 2)],
        {("a", "h"): W1.T, ("b", "h"): W1.T, ("h", "y"): None, ("a", "y"): None},
    ),
    "transposed": ([("y", 4, "MatMul", 1)], {("x", "y"): W1.T}),
    "constants": ([("y", 4, "Gemm", 1)], {("x", "y"): 2 * W1.T}),
    "doubles": ([("y", 4, "Relu", 1)], {("x", "y"): W1.T}),
    "added": (
        [("h", 4, "Add", 1), ("y", 2, "Gemm", 2)],
        {("x", "h"): W1.T, ("h", "y"): W3.T},
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    for example in ZOO.values():
        publish(example.network(), root)
    for name, model in FOREIGN.items():
        save(model, root / name / "1" / "model.onnx")
    put(root, "numbered", 1, 1)
    put(root, "numbered", 2, 2)
    save(written([node("MatMul", "x W", "y")], {"W": values(3, 20_000)}), root / "wide.onnx")
    (root / "wide" / "1").mkdir(parents=True)
    (root / "wide.onnx").rename(root / "wide" / "1" / "model.onnx")
    return root


@pytest.fixture(scope="module")
def served(models: Path) -> Iterator[tuple[Server, Rest]]:
    with pages.served(models, transport=Transport.ASYNCIO) as both:
        yield both


def shown(client: Rest, name: str, version: str = "") -> dict[str, Any]:
    answer = client.get(pages.model_path(name, version))
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    assert found["tensors_error"] == ""
    return found


def matrices(found: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return {(edge["from"], edge["to"]): edge["weights"] for edge in found["edges"]}


def assert_same(got: Any, expected: Any) -> None:
    if expected is None:
        assert got is None
    else:
        np.testing.assert_array_equal(pages.array(got), expected)


@pytest.mark.parametrize("name", ZOO)
def test_a_network_is_drawn_with_its_layers_and_weights(
    served: tuple[Server, Rest], name: str
) -> None:
    _, client = served
    network = ZOO[name].network()
    found = shown(client, name)
    tensors = {tensor["title"]: tensor for tensor in found["tensors"]}
    assert [each.name for each in network.layers if each.name not in tensors] == []
    edges = matrices(found)
    named = {layer.name: tensors[layer.name]["name"] for layer in network.layers}
    given = [each.name for each in network.inputs]
    named |= {each: each for each in given} | {"a1": given[0]}
    categories = {each.name for each in network.inputs if isinstance(each, Categorical)}
    for layer in network.layers:
        assert tensors[layer.name]["size"] == layer.units
        for source, W in network.blocks(layer.name).items():
            got = edges[named.get(source, given[0]), named[layer.name]]
            # Of categories a graph computes numbers before it multiplies them.
            assert_same(got, W if W.size <= 40_000 and source not in categories else None)
    depths = dict.fromkeys(given, 0) | {each["name"]: each["depth"] for each in found["tensors"]}
    for name_of, depth in depths.items():
        sources = [source for source, target in edges if target == name_of]
        assert depth == 1 + max((depths[each] for each in sources), default=-1)


def test_an_activation_of_several_nodes_is_one_part_of_its_layer() -> None:
    network = Network.chain([3, 4, 2, 2, 2], ["gelu", "mish", "silu"], "hard_sigmoid")
    found = drawn(to_onnx(network))
    kinds = [each.kind for each in found.tensors]
    assert kinds == ["Gelu", "Mish", "Swish", "HardSigmoid"]
    assert [edge.weights is not None for edge in found.edges] == [True] * 4


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_others_is_drawn_by_what_is_computed(
    served: tuple[Server, Rest], name: str
) -> None:
    _, client = served
    found = shown(client, name)
    tensors, expected = DRAWN[name]
    got = [(each["name"], each["size"], each["kind"], each["depth"]) for each in found["tensors"]]
    assert got == tensors
    edges = matrices(found)
    assert len(edges) == len(found["edges"])
    assert edges.keys() == expected.keys()
    for ends, matrix in expected.items():
        assert_same(edges[ends], matrix)
    inputs = {each["name"]: values(2, each["shape"][1]) for each in found["inputs"]}
    ran = pages.run(client, name, inputs)
    assert ran["layers_error"] == ""
    for tensor in found["tensors"]:
        assert pages.array(ran["layers"][tensor["name"]]).shape == (2, tensor["size"])
    np.testing.assert_array_equal(ran["layers"]["y"], ran["outputs"]["y"])


def test_a_matrix_that_is_too_large_is_not_shown(served: tuple[Server, Rest]) -> None:
    _, client = served
    found = shown(client, "wide")
    assert matrices(found) == {("x", "y"): None}
    assert len(found["importance"]["x"]) == 3


def ranged() -> Network:
    source = Input(2, features=("a", "b"), scale=[2, 4], low=[0, 0.1], high=[1, 8])
    layers = [Dense("hidden", 3, "relu"), Dense("out", 1, "sigmoid")]
    outputs = [Output("sums", "hidden", of="z"), Output("y", "out")]
    return Network.define(source, layers, outputs, name="shown")


def test_a_sum_that_is_shown_is_drawn_before_its_activation(tmp_path: Path) -> None:
    network = ranged()
    publish(network, tmp_path)
    with pages.served(tmp_path, transport=Transport.ASYNCIO) as (_, client):
        found = shown(client, "shown")
        edges = matrices(found)
        titles = {each["title"]: each["name"] for each in found["tensors"]}
        hidden, out = (network.layer(name) for name in ("hidden", "out"))
        assert_same(edges["x", "sums"], hidden.W)
        assert_same(edges["sums", titles["hidden"]], None)
        assert_same(edges[titles["hidden"], "y"], out.W)
        moves = np.abs(hidden.W.astype(np.float64)).sum(axis=0) * [1 / 2, 7.9 / 4]
        # As short as they were written.
        assert found["inputs"][0]["low"] == [0, 0.1]
        np.testing.assert_allclose(found["importance"]["x"], moves, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(networks())
def test_any_network_is_drawn_with_its_layers_and_weights(network: Network) -> None:
    with ModelBytes() as content:
        content.write(serialize(to_onnx(network)))
        graph = parse(content.seal()).graph
        drawn = read_anatomy(graph, content, {}, [layer.name for layer in network.layers])
    named = {tensor.title: tensor.name for tensor in drawn.tensors}
    weights = {(edge.source, edge.target): edge.weights for edge in drawn.edges}
    sums = {output.layer: output.name for output in network.outputs if output.of == "z"}
    assert len(weights) == len(drawn.edges)
    shown = 0
    for layer in network.layers:
        # Where a sum is shown, what is read leads to it, and from it the activation comes.
        target = named[layer.name]
        if layer.activation != "identity" and layer.name in sums:
            assert weights.pop((sums[layer.name], target)) is None
            target = sums[layer.name]
        for source, W in network.blocks(layer.name).items():
            got = weights.pop((named.get(source, network.input.name), target))
            shown += W.size
            if got is None:
                assert W.size > 40_000 or shown > 2**18
            else:
                np.testing.assert_array_equal(got, W)
    # What is left are second names of one tensor.
    assert all(each is None for each in weights.values())


def test_a_quantized_network_is_drawn_with_the_weights_that_it_has(tmp_path: Path) -> None:
    network = ZOO["breast_cancer"].network()
    rows = ZOO["breast_cancer"].held_out().x
    publish(quantize(network, rows), tmp_path)
    with pages.served(tmp_path, transport=Transport.ASYNCIO) as (_, client):
        found = shown(client, "breast_cancer")
        edges = [edge for edge in found["edges"] if edge["weights"] is not None]
        assert len(edges) >= len(network.layers)
        first = next(edge for edge in edges if edge["from"] == network.input.name)
        exact = network.layers[0].W
        assert np.abs(pages.array(first["weights"]) - exact).max() < np.abs(exact).max() / 50
        ran = pages.run(client, "breast_cancer", {network.input.name: rows[:2]})
        assert ran["layers_error"] == ""


def test_columns_samples_and_properties_are_those_of_the_file(served: tuple[Server, Rest]) -> None:
    _, client = served
    network = ZOO["breast_cancer"].network()
    found = shown(client, "breast_cancer")
    metadata = client.get("/v2/models/breast_cancer").json
    assert found["properties"] == metadata["properties"]
    assert found["content"] == found["properties"]["forwardpass.content"]
    assert found["batch_invariant"] == "true"
    assert found["provenance"] == dict(network.provenance)
    (source,) = found["inputs"]
    assert source["labels"] == list(network.input.features)
    assert source["units"] == list(network.input.units)
    assert source["shape"] == [-1, 30]
    assert (source["low"], source["high"]) == ([], [])
    assert [output["name"] for output in found["outputs"]] == [o.name for o in network.outputs]
    sample = found["samples"][0]
    ran = pages.run(client, "breast_cancer", {"x": [sample["inputs"]["x"]]})
    for name, expected in sample["outputs"].items():
        np.testing.assert_allclose(ran["outputs"][name][0], expected, rtol=1e-3, atol=1e-4)
    assert len(found["importance"]["x"]) == 30


def test_each_version_is_shown(served: tuple[Server, Rest]) -> None:
    _, client = served
    assert shown(client, "numbered")["version"] == "2"
    assert shown(client, "numbered", "1")["version"] == "1"
    assert shown(client, "numbered")["versions"] == ["1", "2"]
    assert client.get(pages.model_path("numbered", "3")).status == 404
    assert client.get(pages.model_path("nobody")).status == 404


def test_drift_is_shown_by_feature_where_it_is_counted(tmp_path: Path) -> None:
    publish(ranged(), tmp_path)
    for by_feature, columns in ((True, [0, 2]), (False, None)):
        with pages.served(
            tmp_path,
            transport=Transport.ASYNCIO,
            metrics_port=0,
            drift_by_feature=by_feature,
        ) as (_, client):
            row = {"a": 0.5, "b": 9}
            assert client.post("/v2/models/shown:predict", [row, row]).status == 200
            (drift,) = shown(client, "shown")["drift"]
            assert drift == {"input": "x", "rows": 2, "outside": 2, "by_feature": columns}
            pages.run(client, "shown", {"x": [[7, 9]] * 8})
            assert shown(client, "shown")["drift"] == [drift]
    with pages.served(tmp_path, transport=Transport.ASYNCIO) as (_, client):
        assert shown(client, "shown")["drift"] == []


def test_a_graph_of_many_tensors_is_not_drawn(tmp_path: Path) -> None:
    nodes, constants = [], {"W": np.eye(2, dtype=np.float32)}
    for step in range(600):
        reads = f"t{step}" if step else "x"
        nodes.append(node("MatMul", f"{reads} W", "y" if step == 599 else f"t{step + 1}"))
    save(written(nodes, constants, width=2), tmp_path / "deep" / "1" / "model.onnx")
    with pages.served(tmp_path, transport=Transport.ASYNCIO) as (_, client):
        found = client.get(pages.model_path("deep")).json
        assert found["tensors"] == []
        assert "600 tensors" in found["tensors_error"]
        ran = pages.run(client, "deep", {"x": [[1, 2]]})
        assert ran["outputs"] == {"y": [[1, 2]]}
        assert ran["layers_error"] == found["tensors_error"]


def test_whatever_a_graph_has_it_is_shown_or_said_why_not(repository: Path) -> None:
    """All models of the server's tests, those of other types and ranks among them."""
    from forwardpass.server.guard import Limits

    limits = Limits(general=True)
    with pages.served(repository, transport=Transport.ASYNCIO, limits=limits) as (_, client):
        for model in pages.overview(client)["models"]:
            answer = client.get(pages.model_path(model["name"]))
            if any(version["state"] == "READY" for version in model["versions"]):
                assert answer.status == 200, answer.body
                assert {"tensors", "edges", "importance"} <= answer.json.keys()


def test_a_type_that_is_no_float_is_not_drawn(tmp_path: Path) -> None:
    model = written(
        [node("MatMul", "x W", "m"), node("Cast", "m", "y", to=TensorProto.INT64)],
        {"W": W1},
    )
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    save(model, tmp_path / "m" / "1" / "model.onnx")
    with pages.served(tmp_path, transport=Transport.ASYNCIO) as (_, client):
        assert [each["name"] for each in shown(client, "m")["tensors"]] == []


def drawn(model: ModelProto) -> Anatomy:
    with closing(ModelBytes()) as content:
        content.write(model.SerializeToString())
        content.seal()
        return read_anatomy(parse(content).graph, content, {}, ())


def casts(count: int) -> ModelProto:
    """A matrix of a megabyte that is cast again and again before it is multiplied."""
    kinds = (TensorProto.DOUBLE, TensorProto.FLOAT)
    nodes = [node("Cast", f"c{i}", f"c{i + 1}", to=kinds[i % 2]) for i in range(count)]
    nodes.append(node("MatMul", f"x c{count}", "y"))
    return written(nodes, {"c0": np.ones((1024, 1024), np.int8)}, width=1024)


def dequantized(count: int) -> ModelProto:
    """The same matrix, made numbers of for each of many products."""
    nodes = []
    for i in range(count):
        nodes.append(node("DequantizeLinear", "W s", f"d{i}"))
        nodes.append(node("MatMul", f"x d{i}", f"m{i}"))
    nodes.append(node("Sum", [f"m{i}" for i in range(count)], "y"))
    constants = {"W": np.ones((1024, 1024), np.int8), "s": np.float32(0.5)}
    return written(nodes, constants, width=1024)


def scaled(count: int) -> ModelProto:
    """An input of a million columns that is scaled again and again."""
    nodes = [node("Mul", f"x{i if i else ''} c", f"x{i + 1}") for i in range(count)]
    nodes.append(node("MatMul", f"x{count} W", "y"))
    constants = {"c": np.ones(2**20, np.float32), "W": np.ones((2**20, 1), np.float32)}
    return written(nodes, constants, width=2**20)


@pytest.mark.parametrize("model", [casts(60), dequantized(60), scaled(60)])
def test_what_is_computed_of_constants_takes_bounded_memory(model: ModelProto) -> None:
    tracemalloc.start()
    try:
        drawn(model)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Its elements as float64, and what one product or one of its parts takes meanwhile.
    assert most < 8 * 2**24 + 2**26


def test_a_long_chain_of_constants_is_not_followed() -> None:
    nodes = [node("Identity", f"c{i}", f"c{i + 1}") for i in range(5000)]
    nodes.append(node("MatMul", "x c5000", "y"))
    assert drawn(written(nodes, {"c0": np.eye(3, dtype=np.float32)})).edges == []


def sum_of_products(count: int) -> ModelProto:
    nodes = [node("MatMul", "x W", f"a{i}" if not i else f"m{i}") for i in range(count)]
    nodes += [node("Add", f"a{i - 1} m{i}", f"a{i}") for i in range(1, count)]
    nodes.append(node("Relu", f"a{count - 1}", "y"))
    return written(nodes, {"W": np.eye(2, dtype=np.float32)}, width=2)


def products_of_copies(count: int) -> ModelProto:
    nodes = [node("MatMul", "x W", "c0")]
    for i in range(count):
        nodes.append(node("Identity", f"c{i}", f"c{i + 1}"))
        nodes.append(node("MatMul", f"c{i + 1} W", f"m{i}"))
    nodes.append(node("Sum", [f"m{i}" for i in range(count)], "y"))
    return written(nodes, {"W": np.eye(2, dtype=np.float32)}, width=2)


@pytest.mark.parametrize("make", [sum_of_products, products_of_copies])
def test_a_graph_that_is_twice_as_long_takes_twice_as_long_to_draw(
    make: Callable[[int], ModelProto],
) -> None:
    def steps(count: int) -> int:
        found = 0

        def step(*_: object) -> None:
            nonlocal found
            found += 1

        model = make(count)
        sys.setprofile(step)
        try:
            drawn(model)
        finally:
            sys.setprofile(None)
        return found

    assert steps(800) < 2.2 * steps(400)


def test_all_ways_together_are_followed_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [node("Transpose", f"t{i}" if i else "x", f"t{i + 1}") for i in range(50)]
    nodes += [node("Gemm", "t50 W", f"m{i}") for i in range(10)]
    nodes.append(node("Concat", [f"m{i}" for i in range(10)], "y", axis=1))
    model = written(nodes, {"W": np.eye(3, dtype=np.float32)})
    assert len(drawn(model).edges) == 20
    monkeypatch.setattr(anatomy, "_MAX_ALL_STEPS", 100)
    assert len(drawn(model).edges) < 20


def test_a_graph_of_many_edges_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, reads = [], ["x"]
    for i in range(20):
        nodes.append(node("Concat", [*reads, *reads], f"c{i}", axis=1))
        nodes.append(node("Gemm", f"c{i} W{i}", f"h{i}"))
        reads.append(f"h{i}")
    nodes.append(node("Identity", reads[-1], "y"))
    W = {f"W{i}": values(2 * (3 + i), 1) for i in range(20)}
    model = written(nodes, W)
    assert len(drawn(model).edges) > 20
    monkeypatch.setattr(anatomy, "_MAX_EDGES", 20)
    with pytest.raises(TooManyTensorsError, match="more than 20 edges"):
        drawn(model)


@pytest.mark.parametrize("text", ["[" * 100_000, "none", "7", '{"a": NaN}'])
def test_metadata_that_is_no_json_keeps_no_model_from_being_shown(
    tmp_path: Path, text: str
) -> None:
    model = written([node("MatMul", "x W", "y")], {"W": W1})
    helper.set_model_props(model, {metadata.LAYERS: text, metadata.PROVENANCE: text})
    save(model, tmp_path / "odd" / "1" / "model.onnx")
    with pages.served(tmp_path, transport=Transport.ASYNCIO) as (_, client):
        found = client.get(pages.model_path("odd")).json
    assert (found["tensors_error"], len(found["tensors"]), found["provenance"]) == ("", 1, {})


def test_no_more_samples_are_shown_than_a_run_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ZOO["breast_cancer"].network(), tmp_path)
    with pages.served(tmp_path, transport=Transport.ASYNCIO) as (server, client):
        path = pages.model_path("breast_cancer")
        samples = client.get(path).json["samples"]
        assert len(samples) > 2
        row = sum(len(each) for kind in ("inputs", "outputs") for each in samples[0][kind].values())
        monkeypatch.setattr(page, "_MAX_NUMBERS", 2 * row)
        assert client.get(path).json["samples"] == samples[:2]
        text = server.catalog.find("breast_cancer").session.metadata[metadata.SAMPLES]
        monkeypatch.setattr(page, "_MAX_SAMPLES", len(text) - 1)
        assert client.get(path).json["samples"] == []
