"""The names of the tensors of a network's graph, after the lecture: `z2`, `a2`, `W1`, `b1`.

W and b with number l lead from layer L_l to L_{l+1}. A layer that reads several has one W per
block of columns, `W2_1` and `W2_2`, and a partial sum after each block except the last.
"""

from collections.abc import Sequence

from forwardpass.models.activations import activation_of, last_of
from forwardpass.models.categorical import Categorical
from forwardpass.models.layers import Layer
from forwardpass.models.ports import Input, Output


def z(number: int) -> str:
    """Name the weighted sums of layer L_number."""
    return f"z{number}"


def a(number: int) -> str:
    """Name the activations of layer L_number; a1 is the input as layers read it."""
    return f"a{number}"


def part(source: str, what: str) -> str:
    """Name a tensor that belongs to an input; no name that a user gives has a slash.

    `missing`, `fill` and `filled`: which values are missing, those in their place, and the result.
    `index`, `count`, `equal` and `rows`: a category's number, all numbers, and where both are
    equal, as booleans and as numbers. `values` and `encoded`: the row of each category, and the
    rows of the input. `unknown` and `0`: whether a number is below zero, as of no category.
    """
    return f"{source}/{what}"


def of_input(name: str, count: int) -> str:
    """Name what layers read of one of `count` inputs: a1, or its part of a1."""
    return a(1) if count == 1 else part(name, "a1")


def shown(output: Output, number: int) -> str:
    """Name the tensor that an output of layer L_number shows."""
    return a(number) if output.of == "a" else z(number)


def weights(number: int, blocks: int) -> list[str]:
    """Name the blocks of columns of W^(number)."""
    if blocks == 1:
        return [f"W{number}"]
    return [f"W{number}_{block}" for block in range(1, blocks + 1)]


def sums(number: int, blocks: int) -> list[str]:
    """Name the sum after each block of columns; the last is z itself."""
    return [f"z{number}_{block}" for block in range(1, blocks)] + [z(number)]


def bias(number: int) -> str:
    """Name b^(number)."""
    return f"b{number}"


def slopes(number: int) -> str:
    """Name the slopes of the prelu of layer L_number."""
    return f"slopes{number}"


def mean(input_name: str) -> str:
    """Name the mean, which is subtracted from the input."""
    return f"{input_name}_mean"


def scale(input_name: str) -> str:
    """Name the scale, by which the input is divided."""
    return f"{input_name}_scale"


def centered(input_name: str) -> str:
    """Name the input minus its mean, before a division."""
    return f"{input_name}_centered"


def scaled(input_name: str) -> str:
    """Name the result of one of several scalings; the result of a single one is a1."""
    return f"{input_name}_scaled"


def scaling(tensor: str) -> str:
    """Name the scaling that gives a tensor: the inverse of `scaled`."""
    return tensor.removesuffix("_scaled")


def taken(inputs: Sequence[Input | Categorical], layers: Sequence[Layer]) -> set[str]:
    """Return every name that the graph uses, except those with a slash, of inputs and outputs."""
    names = {a(1)}
    for source in inputs:
        if isinstance(source, Categorical):
            continue
        for each in source.scaled:
            if each.mean is not None:
                names |= {mean(each.name), centered(each.name)}
            if each.scale is not None:
                names.add(scale(each.name))
        names |= {scaled(each.name) for each in source.scalings}
    for number, layer in enumerate(layers, start=2):
        blocks = len(layer.reads)
        names |= {bias(number - 1), a(number), *weights(number - 1, blocks), *sums(number, blocks)}
        if activation_of(last_of(layer.activation)).name == "prelu":
            names.add(slopes(number))
    return names
