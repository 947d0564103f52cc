"""Two hundred networks through export, import and export again: the same bytes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.networks import functions

from forwardpass.models import ACTIVATIONS, Input, Layer, Network, Output, export, from_onnx, load
from forwardpass.models.activations import activation_of

COUNT = 200


def random_network(seed: int) -> Network:
    """A network of any connections, heads, scaling and texts, with weights such as training's."""
    rng = np.random.default_rng(seed)
    widths = {"measured": int(rng.integers(1, 8))}
    source = Input(
        widths["measured"],
        "measured",
        features=[f"f{k}" for k in range(widths["measured"])] if seed % 2 else (),
        units=["mm"] * widths["measured"] if seed % 3 == 0 else (),
        mean=rng.standard_normal(widths["measured"]) if seed % 3 else None,
        scale=rng.uniform(0.5, 2, widths["measured"]) if seed % 4 else None,
    )
    count = int(rng.integers(1, 6))
    reads: list[tuple[str, ...]] = []
    for k in range(count):
        before = list(widths) if k else ["measured"]
        chosen = rng.choice(before, size=min(len(before), int(rng.integers(1, 4))), replace=False)
        reads.append(tuple(str(each) for each in chosen))
        widths[f"layer {k}"] = int(rng.integers(1, 9))
    read = {name for each in reads for name in each}
    layers, outputs = [], []
    for k, sources in enumerate(reads):
        name = f"layer {k}"
        given = functions(rng, widths[name], hidden=name in read)
        W = rng.standard_normal((widths[name], sum(widths[each] for each in sources)))
        b = rng.standard_normal(widths[name]) * rng.integers(0, 2)
        layers.append(Layer(name, W, b, given[rng.integers(len(given))], sources))
        if name not in read or rng.random() < 0.3:
            labels = [f"label {j}" for j in range(len(b))] if rng.random() < 0.5 else ()
            units = ["EUR"] * len(b) if rng.random() < 0.3 else ()
            outputs.append(Output(f"a of {k}", name, "a", labels, units, "activations"))
            if rng.random() < 0.3:
                outputs.append(Output(f"z of {k}", name, "z"))
    return Network(source, layers, outputs, "random", {"seed": str(seed)})


def features(network: Network) -> set[str]:
    """What the network has of all that a network may have."""
    found: set[str] = {activation_of(layer.activation).name for layer in network.layers}
    found |= {"parameter" for layer in network.layers if not isinstance(layer.activation, str)}
    found |= {output.of for output in network.outputs}
    found |= {"skip" for layer in network.layers if len(layer.reads) > 1}
    found |= {"labels" for output in network.outputs if output.labels}
    found |= {"units" for output in network.outputs if output.units}
    found |= {"heads"} if len({output.layer for output in network.outputs}) > 1 else set()
    source = network.input
    given = {"features": source.features or None, "mean": source.mean, "scale": source.scale}
    return found | {field for field, values in given.items() if values is not None}


@pytest.mark.parametrize("read", [load, from_onnx])
def test_export_import_and_export_again_give_the_same_bytes(read, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for seed in range(COUNT):
        network = random_network(seed)
        seen.update(features(network))
        first, second = tmp_path / f"{seed}.onnx", tmp_path / f"{seed} again.onnx"
        export(network, first)
        options = {} if read is load else {"name": network.name}
        export(read(first, **options), second)
        assert second.read_bytes() == first.read_bytes(), network
    everything = {
        *ACTIVATIONS,
        "parameter",
        "a",
        "z",
        "skip",
        "labels",
        "units",
        "heads",
        "features",
    }
    assert {*everything, "mean", "scale"} <= set(seen)
    assert min(seen.values()) >= COUNT // 40, seen
