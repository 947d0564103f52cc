"""Versions that change under a client: each answer is of the version that it was asked by."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import pytest
from client.conftest import OipServer
from onnx import helper
from support.clients import AnyClient
from support.living import serving
from support.onnx_files import build, tensor
from support.versions import label, put

from forwardpass.client import (
    InvalidInputError,
    ModelChangedError,
    ModelNotFoundError,
    ProtocolError,
    ServerError,
)
from forwardpass.client._conversation.codecs import REPLICAS
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.metadata import (
    CONTENT,
    INPUTS,
    OUTPUTS,
    SIGNATURE,
    ColumnNames,
    dump_columns,
)

WEIGHTS = {"low": {"a": 1, "b": 2, "c": 3}, "high": {"a": 40, "b": 50, "c": 60}}
"""By class and feature: what a score is, in whatever order a version has them."""
FIRST, TURNED = ("a", "b", "c"), ("c", "a", "b")
LABELS, SWAPPED = ("low", "high"), ("high", "low")

X = {"a": [1.0, 0.0, 2.0], "b": [0.0, 1.0, 0.0], "c": [0.0, 0.0, 1.0]}
SCORES = {"low": [1, 2, 5], "high": [40, 50, 140]}


def names(features, labels):
    return {
        INPUTS: dump_columns({"x": ColumnNames(labels=features)}),
        OUTPUTS: dump_columns({"y": ColumnNames(labels=labels)}),
    }


def weights(features, labels):
    return np.array(
        [[WEIGHTS[label][feature] for feature in features] for label in labels], np.float32
    )


def publish(root, version, features=FIRST, labels=LABELS, scale=1):
    """x FP32[batch, 3] -> y FP32[batch, 2], scores of the labels by the features, scaled."""
    model = build(
        [helper.make_node("Gemm", ["x", "W"], ["y"], transB=1)],
        [tensor("x", "FP32", ["batch", 3])],
        [tensor("y", "FP32", ["batch", 2])],
        constants={"W": weights(features, labels) * np.float32(scale)},
        metadata=names(features, labels),
    )
    put(root, "m", version, model.SerializeToString())


def until_served(served, version):
    served.until(lambda: "m" in served.server.catalog and version in versions(served))


def versions(served):
    return served.server.catalog.versions("m")


def assert_scored(prediction, version, scale=1):
    """Compare by label, which no order of columns is part of."""
    assert prediction.version == version
    columns = dict(zip(prediction.columns["y"].labels, prediction["y"].T.tolist(), strict=True))
    assert columns == {name: (scale * np.array(scores)).tolist() for name, scores in SCORES.items()}


@pytest.fixture
def served(tmp_path):
    publish(tmp_path, 1)
    with serving(tmp_path) as served:
        yield served


@pytest.fixture
def client(served, connect):
    with connect(f"127.0.0.1:{served.server.port}") as client:
        yield client


@pytest.mark.parametrize("table", [dict, pd.DataFrame], ids=["dict", "DataFrame"])
def test_columns_go_by_name_when_a_new_version_has_them_in_another_order(
    client, served, tmp_path: Path, table
) -> None:
    assert_scored(client.predict("m", table(X)), "1")
    publish(tmp_path, 2, TURNED)
    until_served(served, 2)
    for _ in range(3):
        assert_scored(client.predict("m", table(X)), "2")
    # What was asked as the first version has them was refused before it was computed.
    assert client.statistics("m", "2")[0].answered == 3


def test_labels_are_those_of_the_version_that_answers(client, served, tmp_path: Path) -> None:
    rows = np.column_stack([X[name] for name in FIRST])
    assert_scored(client.predict("m", rows), "1")
    publish(tmp_path, 2, labels=SWAPPED)
    until_served(served, 2)
    prediction = client.predict("m", rows)
    assert_scored(prediction, "2")
    assert prediction.label() == ["high"] * 3
    assert client.statistics("m", "2")[0].answered == 1
    assert client.metadata("m").properties[OUTPUTS] == names(FIRST, SWAPPED)[OUTPUTS]


def test_a_label_that_moves_takes_the_names_along(client, served, tmp_path: Path) -> None:
    publish(tmp_path, 2, TURNED, SWAPPED)
    until_served(served, 2)
    for version in (1, 2, 1):
        label(tmp_path, "m", {"stable": version})
        served.until(
            lambda version=version: served.server.catalog.get("m").labels.get("stable") == version
        )
        assert_scored(client.predict("m", X, version="stable"), str(version))
    assert_scored(client.predict("m", X), "2")
    assert_scored(client.predict("m", X, version="1"), "1")


def test_of_several_versions_the_first_call_learns_which_answers(
    served, tmp_path: Path, connect: Callable[..., AnyClient]
) -> None:
    publish(tmp_path, 2, TURNED, SWAPPED)
    until_served(served, 2)
    with connect(f"127.0.0.1:{served.server.port}") as client:
        assert_scored(client.predict("m", X), "2")
        assert_scored(client.predict("m", X, timing=True), "2")
        timing = client.predict("m", X, timing=True).timing
        assert timing is not None
        assert timing.compute_us is not None
        assert timing.compute_us > 0


def test_a_version_that_goes_leaves_the_names_of_the_one_before(
    client, served, tmp_path: Path
) -> None:
    publish(tmp_path, 2, TURNED, SWAPPED)
    until_served(served, 2)
    assert_scored(client.predict("m", X), "2")
    (tmp_path / "m" / "2" / "model.onnx").unlink()
    served.until(lambda: versions(served) == [1])
    assert_scored(client.predict("m", X), "1")


def without_c() -> bytes:
    """The model with a feature d in place of c."""
    model = build(
        [helper.make_node("Gemm", ["x", "W"], ["y"], transB=1)],
        [tensor("x", "FP32", ["batch", 3])],
        [tensor("y", "FP32", ["batch", 2])],
        constants={"W": weights(FIRST, LABELS)},
        metadata=names(("a", "b", "d"), LABELS),
    )
    return model.SerializeToString()


def test_other_features_are_refused_by_name(client, served, tmp_path: Path) -> None:
    client.predict("m", X)
    put(tmp_path, "m", 2, without_c())
    until_served(served, 2)
    with pytest.raises(InvalidInputError, match=r"none for 'd', and one for 'c'"):
        client.predict("m", X)


def test_rows_that_are_cut_all_go_to_the_new_version(client, served, tmp_path: Path) -> None:
    assert_scored(client.predict("m", X), "1")
    publish(tmp_path, 2, TURNED, SWAPPED, scale=2)
    until_served(served, 2)
    told = []
    many = {name: column * 20 for name, column in X.items()}
    prediction = client.predict("m", many, rows_per_call=7, progress=lambda *at: told.append(at))
    assert prediction.version == "2"
    low = prediction["y"][:, prediction.columns["y"].labels.index("low")]
    assert low.tolist() == [2 * score for score in SCORES["low"]] * 20
    assert told == [*((rows, 60) for rows in range(7, 60, 7)), (60, 60)]


def test_a_stream_goes_on_with_the_new_version(client, served, tmp_path: Path) -> None:
    def tables():
        for i in range(60):
            if i == 20:
                publish(tmp_path, 2, TURNED, SWAPPED)
                until_served(served, 2)
            yield X

    answered = []
    for prediction in client.predict_stream("m", tables(), in_flight=4):
        assert_scored(prediction, prediction.version)
        answered.append(prediction.version)
    assert (answered[0], answered[-1]) == ("1", "2")
    assert len(answered) == 60


# Another file under the same number


def publish_again(served, root, *args, **options):
    """Replace the first version, and wait until the new one answers."""
    before = served.server.catalog.find("m", "1").properties[CONTENT]
    publish(root, 1, *args, **options)
    served.until(lambda: served.server.catalog.find("m", "1").properties[CONTENT] != before)


@pytest.mark.parametrize("version", ["", "1"])
@pytest.mark.parametrize(
    "change", [(TURNED, LABELS), (FIRST, SWAPPED), (TURNED, SWAPPED)], ids=["x", "y", "both"]
)
def test_columns_go_by_name_after_the_version_was_published_again(
    client, served, tmp_path: Path, change, version
) -> None:
    assert_scored(client.predict("m", X, version=version), "1")
    publish_again(served, tmp_path, *change, scale=2)
    assert_scored(client.predict("m", X, version=version), "1", scale=2)
    assert client.metadata("m").properties[OUTPUTS] == names(*change)[OUTPUTS]
    publish_again(served, tmp_path)
    assert client.metadata("m").properties[INPUTS] == names(FIRST, LABELS)[INPUTS]
    for prediction in client.predict_stream("m", [X] * 5, version=version):
        assert_scored(prediction, "1")


def test_features_that_are_gone_are_refused_after_the_version_was_published_again(
    client, served, tmp_path: Path
) -> None:
    client.predict("m", X)
    before = served.server.catalog.find("m", "1").properties[CONTENT]
    put(tmp_path, "m", 1, without_c())
    served.until(lambda: served.server.catalog.find("m", "1").properties[CONTENT] != before)
    with pytest.raises(InvalidInputError, match=r"none for 'd', and one for 'c'"):
        client.predict("m", X)


@pytest.mark.parametrize("change", [(FIRST, LABELS), (TURNED, SWAPPED)], ids=["weights", "names"])
def test_rows_that_are_cut_are_of_one_file(client, served, tmp_path: Path, change) -> None:
    many = {name: column * 20 for name, column in X.items()}
    told = []

    def progress(*at):
        told.append(at)
        if len(told) == 2:
            publish_again(served, tmp_path, *change, scale=2)

    prediction = client.predict("m", many, rows_per_call=7, progress=progress)
    columns = dict(zip(prediction.columns["y"].labels, prediction["y"].T.tolist(), strict=True))
    assert columns == {name: [2 * score for score in SCORES[name]] * 20 for name in LABELS}
    assert told[-1] == (60, 60)


def test_a_call_may_ask_for_one_file_alone(client, served, tmp_path: Path) -> None:
    content = client.metadata("m").properties[CONTENT]
    rows = np.column_stack([X[name] for name in FIRST])
    many = {name: column * 20 for name, column in X.items()}
    assert_scored(client.predict("m", rows, content=content), "1")
    publish_again(served, tmp_path, TURNED, SWAPPED)
    for x, options in ((rows, {}), (X, {}), (many, {"rows_per_call": 7})):
        with pytest.raises(ModelChangedError, match="another one by now"):
            client.predict("m", x, content=content, **options)
    with pytest.raises(ModelChangedError):
        list(client.predict_stream("m", [X, X], content=content))
    publish_again(served, tmp_path)
    for prediction in client.predict_stream("m", [rows] * 3, content=content):
        assert_scored(prediction, "1")


def test_other_weights_alone_cost_no_call(client, served, tmp_path: Path) -> None:
    assert_scored(client.predict("m", X), "1")
    publish_again(served, tmp_path, scale=2)
    assert_scored(client.predict("m", X), "1", scale=2)
    (counted,) = client.statistics("m", "1")
    assert (counted.answered, counted.failed) == (1, 0)


def test_while_replicas_have_two_files_under_one_number_no_answer_is_wrong(
    tmp_path: Path, connect: Callable[..., AnyClient]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    publish(old, 1)
    publish(new, 1, TURNED, SWAPPED, scale=2)
    with serving(old) as one, serving(new) as two:
        target = "ipv4:" + ",".join(f"127.0.0.1:{each.server.port}" for each in (one, two))
        with connect(target, timeout_s=20) as client:
            many = {name: column * 20 for name, column in X.items()}
            scales = set()
            for _ in range(20):
                prediction = client.predict("m", X)
                scale = int(prediction["y"].max()) // 140
                assert_scored(prediction, "1", scale)
                scales.add(scale)
                prediction = client.predict("m", many, rows_per_call=20)
                low = prediction["y"][:, prediction.columns["y"].labels.index("low")]
                assert low.tolist() in [[k * score for score in SCORES["low"]] * 20 for k in (1, 2)]
            assert scales <= {1, 2}


# Servers that a test answers for


def a_version(model, version, features=FIRST, labels=LABELS):
    """`net` of the test's server, as a version that scores."""
    matrix = weights(features, labels).T
    return replace(
        model,
        version=version,
        outputs={"y": ("FP32", (-1, 2))},
        run=lambda arrays: {"y": arrays["x"] @ matrix},
        properties=names(features, labels),
    )


@pytest.fixture
def replicas(make_server):
    """Two servers, of which one has a new version and the other has not."""
    servers = [make_server(), make_server()]
    old, new = servers
    old.models["net"] = a_version(old.models["net"], "1")
    new.models["net"] = a_version(new.models["net"], "2", TURNED, SWAPPED)
    running = [each.start() for each in servers]
    yield servers
    for each in running:
        each.stop(None).wait()


@pytest.fixture
def of_replicas(replicas, connect):
    target = "ipv4:" + ",".join(each.target for each in replicas)
    with connect(target, timeout_s=20) as client:
        yield client


def test_while_replicas_have_different_versions_no_answer_is_wrong(of_replicas, replicas) -> None:
    answered = set()
    for _ in range(40):
        prediction = of_replicas.predict("net", X)
        assert_scored(prediction, prediction.version)
        answered.add(prediction.version)
    assert "2" in answered
    # Not once a call, even where half of the answers are of the other version.
    assert sum(each.calls["ModelMetadata"] for each in replicas) < 15


def test_while_replicas_differ_in_labels_alone_no_call_is_made_twice(of_replicas, replicas) -> None:
    old, new = replicas
    new.models["net"] = a_version(old.models["net"], "2", FIRST, SWAPPED)
    answered = set()
    for _ in range(40):
        prediction = of_replicas.predict("net", X)
        assert_scored(prediction, prediction.version)
        answered.add(prediction.version)
    assert answered == {"1", "2"}
    assert sum(each.calls["ModelInfer"] for each in replicas) == 40
    assert sum(each.calls["ModelMetadata"] for each in replicas) < 15


def test_rows_that_are_cut_are_of_one_version_where_replicas_differ(of_replicas) -> None:
    many = {name: column * 20 for name, column in X.items()}
    for _ in range(10):
        prediction = of_replicas.predict("net", many, rows_per_call=20)
        low = prediction["y"][:, prediction.columns["y"].labels.index("low")]
        assert low.tolist() == SCORES["low"] * 20


@pytest.fixture
def one(server, connect):
    server.models["net"] = a_version(server.models["net"], "1")
    with connect(server.target) as client:
        yield client


def test_the_metadata_of_a_version_are_fetched_once(one, server: OipServer) -> None:
    old = server.models["net"]
    new = a_version(old, "2", TURNED)
    for model in (old, new, old, new, new, new):
        server.models["net"] = model
        assert_scored(one.predict("net", X), model.version)
    # Of the server's choice, of version 2 and of version 1.
    assert server.calls["ModelMetadata"] == 3


@pytest.mark.parametrize(
    ("text", "error", "calls"),
    [
        ("model 'net' version 1 is another one by now: ...", ModelChangedError, REPLICAS),
        ("the transaction was rolled back", ServerError, 1),
    ],
)
def test_a_model_that_changes_all_the_time_is_an_error(
    one, server: OipServer, text, error, calls
) -> None:
    server.models["net"].properties |= {SIGNATURE: "s"}
    server.answers["ModelInfer"] = lambda _, context: context.abort(grpc.StatusCode.ABORTED, text)
    with pytest.raises(error, match=text.split(":")[0]):
        one.predict("net", X)
    assert server.calls["ModelInfer"] == calls
    sent = pb.ModelInferRequest.FromString(server.requests[-1])
    assert sent.parameters["forwardpass_signature"].string_param == "s"


def test_a_server_that_does_not_keep_to_a_version_mixes_no_rows(one, server: OipServer) -> None:
    models = [a_version(server.models["net"], version) for version in "12"]

    def answer(request, context):
        asked = pb.ModelInferRequest.FromString(request)
        asked.model_version = ""
        server.models["net"] = models[server.calls["ModelInfer"] % 2]
        return server._model_infer(asked.SerializeToString(), context)

    server.answers["ModelInfer"] = answer
    server.answers["ModelMetadata"] = lambda _, context: server._model_metadata(
        pb.ModelMetadataRequest(name="net").SerializeToString(), context
    )
    with pytest.raises(ProtocolError, match=r"expected an answer of version '\d', got one of '\d'"):
        one.predict("net", np.ones((50, 3)), rows_per_call=10)


def unknown_by_version(server):
    """Let metadata be told of the server's choice alone."""

    def answer(request, context):
        if pb.ModelMetadataRequest.FromString(request).version:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such version")
        return server._model_metadata(request, context)

    server.answers["ModelMetadata"] = answer


def test_where_no_names_depend_on_it_metadata_that_are_not_reported_cost_no_answer(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    with connect(server.target) as client:
        client.predict("net", [1, 2, 3])
        unknown_by_version(server)
        server.models["net"].version = "2"
        for _ in range(5):
            prediction = client.predict("net", [1, 2, 3])
            assert (prediction.version, prediction["total"]) == ("2", 6)
    assert server.calls == {"ModelInfer": 6, "ModelMetadata": 1 + REPLICAS}


def test_where_names_depend_on_it_metadata_that_are_not_reported_are_an_error(
    one, server: OipServer
) -> None:
    one.predict("net", X)
    unknown_by_version(server)
    server.models["net"] = a_version(server.models["net"], "2", TURNED)
    with pytest.raises(ModelNotFoundError, match="no such version") as caught:
        one.predict("net", X)
    assert "version '2' answered" in caught.value.__notes__[-1]


def test_a_new_version_spends_no_budget_and_keeps_to_the_deadline(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    server.models["net"] = a_version(server.models["net"], "1")
    with connect(server.target, retry=None) as client:
        client.predict("net", X)
        server.models["net"] = a_version(server.models["net"], "2", TURNED)
        assert_scored(client.predict("net", X), "2")
        server.models["net"] = a_version(server.models["net"], "3")
        held = server._model_metadata

        def answer(request, context):
            while context.is_active():
                time.sleep(0.01)
            return held(request, context)

        server.answers["ModelMetadata"] = answer
        with pytest.raises(TimeoutError):
            client.predict("net", X, timeout_s=0.5)
