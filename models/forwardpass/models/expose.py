"""Inner values of a network as named outputs: the lecture's a^(l) and z^(l)."""

from dataclasses import replace
from typing import TYPE_CHECKING

from forwardpass.models.errors import NetworkError
from forwardpass.models.ports import Output

if TYPE_CHECKING:
    from forwardpass.models.layers import Layer
    from forwardpass.models.network import Network

_SHOWN = {"z": "weighted sums", "a": "activations"}


def expose(network: "Network", what: str) -> "Network":
    """Return the network with further outputs `a_2`, `z_2`, `a_3`, ...: a^(l) and z^(l) of L_l.

    what is `a`, `z` or `za`. Existing outputs stay first, and what they show is not repeated;
    an identity layer's z and a are the same. New outputs are in the order of the layers, z
    before a.

    Raises NetworkError for another `what`, or if a layer or an output has one of these names.
    """
    if not what or not set(what) <= set(_SHOWN) or len(set(what)) != len(what):
        raise NetworkError(
            f"network {network.name!r}",
            expected="'a', 'z' or 'za' to expose",
            got=repr(what),
            fix="a are activations, z the sums before them",
        )
    shown = {(output.layer, output.of) for output in network.outputs}
    taken = {
        *(source.name for source in network.inputs),
        *(output.name for output in network.outputs),
    }
    outputs = list(network.outputs)
    for number, layer in enumerate(network.layers, start=2):
        for of in _ways(layer, what):
            if (layer.name, "a" if layer.activation == "identity" else of) in shown:
                continue
            output = _output(of, number, layer)
            if output.name in taken:
                raise NetworkError(
                    f"network {network.name!r}",
                    expected=f"{output.name!r} to be free for the {output.description}",
                    got="a tensor of that name",
                    fix="rename it, or expose by an Output of another name",
                )
            outputs.append(output)
    return replace(network, outputs=tuple(outputs))


def _ways(layer: "Layer", what: str) -> list[str]:
    ways = [of for of in _SHOWN if of in what]
    # One tensor: two outputs would compute and send it twice.
    return ways[-1:] if layer.activation == "identity" else ways


def _output(of: str, number: int, layer: "Layer") -> Output:
    description = f"{_SHOWN[of]} of layer {layer.name}"
    return Output(f"{of}_{number}", layer.name, "z" if of == "z" else "a", description=description)
