"""Version policies and labels while the server runs."""

import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.living import A_WHILE_S, called_all_the_time, serving
from support.versions import BROKEN, label, put, question

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.repository.version_policy import VersionPolicy

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("policy", "first", "second"),
    [
        ("all", [1, 2, 3], [1, 2, 3, 5]),
        ("latest", [3], [5]),
        ("latest:2", [2, 3], [3, 5]),
        ("1,5", [1], [1, 5]),
    ],
)
def test_a_policy_holds_while_versions_come(
    root: Path, policy: str, first: list[int], second: list[int]
) -> None:
    for number in (2, 3):
        put(root, "m", number, number)
    with serving(root, versions=VersionPolicy.parse(policy)) as served:
        catalog = served.server.catalog
        assert catalog.versions("m") == first
        with called_all_the_time(served):
            put(root, "m", 5, 5)
            served.until(lambda: catalog.versions("m") == second)
        put(root, "m", 4, 4)
        third = {"all": [1, 2, 3, 4, 5], "latest:2": [4, 5]}.get(policy, second)
        if third == second:
            time.sleep(A_WHILE_S)
        served.until(lambda: catalog.versions("m") == third)


def test_the_latest_that_fails_leaves_its_elder_serving(root: Path) -> None:
    put(root, "m", 2, BROKEN)
    with serving(root, versions=VersionPolicy.parse("latest")) as served:
        assert served.ask() == (1, 1)
        with called_all_the_time(served) as answers:
            put(root, "m", 3, BROKEN)
            served.until(lambda: served.reason("m", 3) != "")
            put(root, "m", 3, 3)
            served.until_answer((3, 3))
        assert answers == {(1, 1), (3, 3)}
        assert served.server.catalog.versions("m") == [3]
        assert served.outcome(version="1") is Code.NOT_FOUND


def test_a_label_is_a_version_in_every_request(root: Path) -> None:
    put(root, "m", 2, 2)
    label(root, "m", {"stable": 1, "canary": 2})
    with serving(root) as served:
        stub = served.stub
        assert served.ask(version="stable") == (1, 1)
        assert served.ask(version="canary") == (2, 2)
        ready = pb.ModelReadyRequest(name="m", version="stable")
        assert stub.call("ModelReady", ready, pb.ModelReadyResponse).ready
        asked = pb.ModelMetadataRequest(name="m", version="stable")
        assert stub.call("ModelMetadata", asked, pb.ModelMetadataResponse).name == "m"
        config = stub.call(
            "ModelConfig", pb.ModelConfigRequest(name="m", version="stable"), pb.ModelConfigResponse
        )
        assert config.config.name == "m"
        statistics = stub.call(
            "ModelStatistics",
            pb.ModelStatisticsRequest(name="m", version="canary"),
            pb.ModelStatisticsResponse,
        )
        assert [model.version for model in statistics.model_stats] == ["2"]


def test_an_unknown_label_is_rejected_with_those_there_are(root: Path) -> None:
    label(root, "m", {"stable": 1, "canary": 1})
    with serving(root) as served:
        refusal = served.stub.refusal("ModelInfer", question("m", "stabel"))

        assert refusal.code is Code.INVALID_ARGUMENT
        assert refusal.message.endswith("got 'stabel'; labels of 'm': canary, stable")
        assert list(refusal.violations) == ["model_version"]


def test_labels_move_when_the_file_is_replaced_and_no_call_fails(
    root: Path, how: dict[str, Any]
) -> None:
    put(root, "m", 2, 2)
    label(root, "m", {"stable": 1})
    with serving(root, **how) as served:
        with called_all_the_time(served, ("stable",)) as answers:
            for version in (2, 1, 2):
                label(root, "m", {"stable": version})
                served.until_answer((version, version), version="stable")

        assert answers == {(1, 1), (2, 2)}
        label(root, "m", {})
        served.until(lambda: served.outcome(version="stable") is Code.INVALID_ARGUMENT)


def test_a_label_waits_for_a_version_that_is_to_come(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label(root, "m", {"stable": 1})
    with serving(root) as served, called_all_the_time(served, ("stable",)) as answers:
        put(root, "m", 2, BROKEN)
        label(root, "m", {"stable": 2})
        served.until(lambda: "'stable' stays at version 1, since 2 does not" in caplog.text)

        put(root, "m", 2, 2)
        served.until_answer((2, 2), version="stable")

    assert answers == {(1, 1), (2, 2)}
    assert caplog.text.count("stays at version 1") == 1


def test_a_malformed_file_leaves_the_labels_as_they_are(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label(root, "m", {"stable": 1})
    with serving(root) as served:
        label(root, "m", '{"stable": ')
        served.until(lambda: "labels.json is not JSON" in caplog.text)
        put(root, "m", 2, 2)
        served.until_answer((2, 2))

        assert served.ask(version="stable") == (1, 1)
        assert caplog.text.count("labels.json is not JSON") == 1
        label(root, "m", {"stable": 2})
        served.until_answer((2, 2), version="stable")


@pytest.mark.parametrize(
    ("wanted", "code", "says"),
    [
        (2, Code.FAILED_PRECONDITION, "version 2 failed"),
        (7, Code.NOT_FOUND, "no version 'stable'; available: 1, 2"),
    ],
)
def test_a_label_that_never_stood_for_a_version_that_answers_says_so(
    root: Path, wanted: int, code: grpc.StatusCode, says: str
) -> None:
    put(root, "m", 2, BROKEN)
    label(root, "m", {"stable": wanted})
    with serving(root) as served:
        assert served.outcome(version="stable") is code
        assert says in served.refusal(version="stable")
