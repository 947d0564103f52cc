import numpy as np
import pytest

from forwardpass.models import Input, Network, Output, forward, rounding_bound
from forwardpass.models.file.samples import reference_samples
from forwardpass.models.trial_rows import edge_rows, typical_rows


@pytest.fixture
def network():
    source = Input(3, mean=[100, 0, -5], scale=[10, 1e-3, 1])
    chain = Network.chain([3, 8, 2], output_activation="sigmoid", input=source)
    return Network(source, chain.layers, [*chain.outputs, Output("logits", "L3", "z")])


def test_samples_are_typical_rows_with_the_references_answers(network: Network) -> None:
    samples = reference_samples(network)
    assert samples is not None
    x = samples.inputs["x"]
    assert x.shape == (4, 3)
    assert x.dtype == np.float32
    assert (x[0] == network.input.mean).all()
    assert (np.abs((x - network.input.mean) / network.input.scale) < 5).all()
    for name, expected in forward(network, x).items():
        assert samples.outputs[name].dtype == np.float32
        assert (samples.outputs[name] == expected.astype(np.float32)).all()


def test_the_tolerance_covers_the_bound_and_the_rounded_answer_and_little_more(
    network: Network,
) -> None:
    samples = reference_samples(network)
    assert samples is not None
    bounds = rounding_bound(network, samples.inputs["x"])
    for name, answer in samples.outputs.items():
        needed = (bounds[name] + 2.0**-24 * np.abs(answer)).max()
        assert needed <= samples.tolerance[name] <= 1.01 * needed


def test_rows_that_may_overflow_are_left_out() -> None:
    W = [[1e38, 0.0], [0.0, 1e38]]
    samples = reference_samples(Network.chain([2, 2], parameters=[(W, [0, 0])]))
    assert samples is not None
    rows = typical_rows(Input(2), 4)
    assert (samples.inputs["x"] == rows[np.abs(rows).max(axis=1) < 3]).all()
    fine = Network.chain([2, 2], parameters=[(np.multiply(W, 3), [3e38, 3e38])])
    few = reference_samples(fine)
    assert few is None or len(few.inputs["x"]) < 4
    hopeless = Network.chain([2, 1, 1], parameters=[(W[:1], [3e38]), ([[9]], [0])])
    assert reference_samples(hopeless) is None


def test_edge_rows_are_finite_and_distinguished(network: Network) -> None:
    for source in (network.input, Input(100), Input(2, mean=[3e38, -3e38], scale=[3e38, 1])):
        edges = edge_rows(source)
        assert all(row.shape == (source.size,) for row in edges.values())
        assert all(row.dtype == np.float32 for row in edges.values())
        assert np.isfinite(list(edges.values())).all()
    names = [name for name in edge_rows(Input(100)) if "alone" in name]
    assert len(names) == 16
    assert len([name for name in edge_rows(Input(3)) if "alone" in name]) == 3
