"""What holds for every network: any connections, widths to 512, depth to 6, extreme weights."""

import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.networks import networks, rows

from forwardpass.models import Network, forward, load, rounding_bound, to_onnx
from forwardpass.models.file.graph import serialize
from forwardpass.models.file.runner import load_graph

ORDINARY = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def assert_within_bound(network: Network, x: NDArray[np.float32]) -> None:
    bounds = rounding_bound(network, x)
    reference = forward(network, x)
    answers = load_graph(serialize(to_onnx(network))).run(x)
    for name, answer in answers.items():
        assert not np.isnan(bounds[name]).any()
        sure = np.isfinite(bounds[name])
        assert np.isfinite(answer[sure]).all()
        assert (np.abs(answer[sure] - reference[name][sure]) <= bounds[name][sure]).all()


@settings(ORDINARY, max_examples=300)
@given(st.data())
def test_onnxruntime_is_within_the_rounding_bound(data: st.DataObject) -> None:
    network = data.draw(networks())
    assert_within_bound(network, data.draw(rows(network)))


@ORDINARY
@given(st.data())
def test_the_reference_evaluator_is_within_the_rounding_bound(data: st.DataObject) -> None:
    network = data.draw(networks())
    x = data.draw(rows(network))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        assert_within_bound(network, x)


@ORDINARY
@given(networks())
def test_reading_back_gives_an_equal_network_and_the_same_bytes(network: Network) -> None:
    model = serialize(to_onnx(network))
    again = load(model)
    assert again == network
    assert serialize(to_onnx(again)) == model
