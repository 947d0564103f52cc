"""The names of the tensors of a network's graph, after the lecture: `z2`, `a2`, `W1`, `b1`.

W and b with number l lead from layer L_l to L_{l+1}. A layer that reads several has one W a
block of columns, `W2_1` and `W2_2`, and a partial sum after each block but the last.
"""

from collections.abc import Sequence

from forwardpass.models.layers import Layer
from forwardpass.models.ports import Input, Output


def z(number: int) -> str:
    """Name the weighted sums of layer L_number."""
    return f"z{number}"


def a(number: int) -> str:
    """Name the activations of layer L_number; a1 is the scaled input."""
    return f"a{number}"


def shown(output: Output, number: int) -> str:
    """Name what an output of layer L_number shows."""
    return a(number) if output.of == "a" else z(number)


def weights(number: int, blocks: int) -> list[str]:
    """Name W^(number), block by block of its columns."""
    if blocks == 1:
        return [f"W{number}"]
    return [f"W{number}_{block}" for block in range(1, blocks + 1)]


def sums(number: int, blocks: int) -> list[str]:
    """Name the sum after each block of columns; the last is z itself."""
    return [f"z{number}_{block}" for block in range(1, blocks)] + [z(number)]


def bias(number: int) -> str:
    """Name b^(number)."""
    return f"b{number}"


def mean(input_name: str) -> str:
    """Name what is subtracted from the input."""
    return f"{input_name}_mean"


def scale(input_name: str) -> str:
    """Name what the input is divided by."""
    return f"{input_name}_scale"


def centered(input_name: str) -> str:
    """Name the input less its mean, where it is divided after."""
    return f"{input_name}_centered"


def scaled(input_name: str) -> str:
    """Name one of several scalings of the input; of the only one it is a1."""
    return f"{input_name}_scaled"


def scaling(tensor: str) -> str:
    """Name the scaling that gives a tensor: the inverse of `scaled`, of ours."""
    return tensor.removesuffix("_scaled")


def taken(source: Input, layers: Sequence[Layer]) -> set[str]:
    """Return every name that the graph uses of its own accord: all but input and outputs."""
    names = {a(1)}
    for each in source.scaled:
        if each.mean is not None:
            names |= {mean(each.name), centered(each.name)}
        if each.scale is not None:
            names.add(scale(each.name))
    names |= {scaled(each.name) for each in source.scalings}
    for number, layer in enumerate(layers, start=2):
        blocks = len(layer.reads)
        names |= {bias(number - 1), a(number), *weights(number - 1, blocks), *sums(number, blocks)}
    return names
