"""Networks from PyTorch: nn.Sequential of Linear, activations and BatchNorm1d.

torch is imported where a module is read, not with this module.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.assembly import assemble
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.network import Network
from forwardpass.models.pickles import refuse_file
from forwardpass.models.ports import Input
from forwardpass.models.steps import Activate, Head, Linear, Normalize, Operation, chain, real

if TYPE_CHECKING:
    import torch
    from torch import nn


def from_torch(
    module: "nn.Module",
    *,
    input: Input | None = None,  # noqa: A002 - the field's name
    output: str = "y",
    labels: Sequence[str] = (),
    units: Sequence[str] = (),
    name: str = "network",
    provenance: Mapping[str, str] | None = None,
) -> Network:
    """Return the network of a module, as it computes in eval mode.

    It is a Linear, or an nn.Sequential, nested as you like, of Linear, ReLU, Sigmoid, Tanh,
    BatchNorm1d with running statistics (folded into its neighbours), Dropout and Identity
    (left out), Flatten first (left out: rows are sent flat) and Softmax last. Layers keep
    their names in the module, as in `2` or `trunk.0`. The scaling that input brings comes
    before the module.

    Raises UnsupportedSourceError, which names the module, for anything else and for any file:
    torch's are pickles.
    """
    refuse_file(
        module,
        "load it with torch.load(path, weights_only=True) into a module and pass that, or save "
        "the state as .safetensors for from_state",
    )
    import torch

    operations: list[tuple[str, Operation, str]] = []
    for path, leaf in _leaves(module, ""):
        operation = _operation(path, leaf, is_first=not operations)
        if operation is not None:
            operations.append((path or type(leaf).__name__, operation, _part(path, leaf)))
    if not any(isinstance(operation, Linear) for _, operation, _ in operations):
        raise _unsupported(_part("", module), "no Linear in it")
    source = Input(_features(operations)) if input is None else input
    steps = chain(source.name, operations)
    head = Head(name=output, reads=(steps[-1].name,), labels=tuple(labels), units=tuple(units))
    made_from = {"source": f"torch {torch.__version__}: {type(module).__name__}"}
    return assemble(source, steps, [head], name=name, provenance=made_from | dict(provenance or {}))


def _leaves(module: "nn.Module", path: str) -> Iterator[tuple[str, "nn.Module"]]:
    """Yield what a module computes in turn, each with the path by which torch names it."""
    from torch import nn

    if not isinstance(module, nn.Module):
        raise _unsupported(f"{type(module).__name__}", "no nn.Module")
    _check_plain(_part(path, module), module)
    if not _is(module, nn.Sequential):
        yield path, module
        return
    # named_children() would leave out a module, as an activation, that is there twice.
    for name, child in module._modules.items():
        yield from _leaves(child, f"{path}.{name}" if path else name)


def _check_plain(part: str, module: "nn.Module") -> None:
    """Raise UnsupportedSourceError for what a module's kind does not tell of it."""
    from torch import nn

    for what, tensor in module.named_parameters(recurse=False):
        if nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise UnsupportedSourceError(part, f"{what} without values", "draw or load them first")
    if hasattr(module, "parametrizations"):
        raise UnsupportedSourceError(
            part,
            "parameters that are computed",
            "fix them with torch.nn.utils.parametrize.remove_parametrizations",
        )
    if module._forward_hooks or module._forward_pre_hooks:
        raise UnsupportedSourceError(
            part, "a forward hook, which may compute anything", "remove it"
        )


def _operation(path: str, leaf: "nn.Module", *, is_first: bool) -> Operation | None:
    """Return what a module computes; None if that is what it is given."""
    from torch import nn

    part = _part(path, leaf)
    for kind, activation in ((nn.ReLU, "relu"), (nn.Sigmoid, "sigmoid"), (nn.Tanh, "tanh")):
        if _is(leaf, kind):
            return Activate(activation)
    if _is(leaf, nn.Linear):
        W = _array(part, "weight", leaf.weight)
        return Linear(W, None if leaf.bias is None else _array(part, "bias", leaf.bias))
    if _is(leaf, nn.BatchNorm1d):
        return _normalize(part, leaf)
    if _is(leaf, nn.Softmax):
        if leaf.dim in (1, -1):
            return Activate("softmax")
        raise UnsupportedSourceError(
            part, f"dim={leaf.dim}, where a Network's softmax is over each row", "say dim=1"
        )
    if _is(leaf, nn.Flatten):
        if is_first and (leaf.start_dim, leaf.end_dim) == (1, -1):
            return None
        raise UnsupportedSourceError(
            part, "not a Flatten(1) of the input", "a Network's values are rows: leave it out"
        )
    if any(_is(leaf, kind) for kind in (nn.Dropout, nn.AlphaDropout, nn.Identity)):
        return None
    raise _unsupported(part, "no part of a Network")


def _is(module: "nn.Module", kind: "type[nn.Module]") -> bool:
    """Whether a module is of a kind and computes as that kind does: not by a forward of its own."""
    return isinstance(module, kind) and getattr(module.forward, "__func__", None) is kind.forward


def _normalize(part: str, norm: Any) -> Normalize:
    if norm.running_mean is None or norm.running_var is None:
        raise UnsupportedSourceError(
            part,
            "no running statistics, so that an answer depends on the batch that it is in",
            "train it with track_running_stats=True",
        )
    return Normalize(
        mean=_array(part, "running_mean", norm.running_mean),
        scale=np.sqrt(_array(part, "running_var", norm.running_var) + norm.eps),
        factor=1.0 if norm.weight is None else _array(part, "weight", norm.weight),
        offset=0.0 if norm.bias is None else _array(part, "bias", norm.bias),
    )


def _array(part: str, what: str, tensor: "torch.Tensor") -> NDArray[np.float64]:
    values = tensor.detach().cpu()
    return real(part, what, values.double() if values.is_floating_point() else values)


def _features(operations: Sequence[tuple[str, Operation, str]]) -> int:
    """Return the width of what the first module with parameters reads."""
    for _, operation, _ in operations:
        if isinstance(operation, Linear):
            return int(operation.W.shape[1])
        if isinstance(operation, Normalize):
            return np.size(operation.mean)
    raise AssertionError("there is a Linear")


def _part(path: str, module: "nn.Module") -> str:
    kind = type(module).__name__
    return f"module {path!r} ({kind})" if path else f"module ({kind})"


def _unsupported(part: str, why: str) -> UnsupportedSourceError:
    return UnsupportedSourceError(
        part,
        why,
        "expected an nn.Sequential of Linear, ReLU, Sigmoid, Tanh, BatchNorm1d, Dropout, Identity, "
        "Flatten(1) first and Softmax last; any other module can go through torch.onnx.export",
    )
