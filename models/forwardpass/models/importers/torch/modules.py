"""PyTorch modules as steps: nn.Sequential of Linear, activations and BatchNorm1d."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import ActivationName, AnyActivation, Elu, LeakyRelu
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.steps import (
    Activate,
    Linear,
    Normalize,
    Operation,
    layer_norm,
    parametrized,
    real,
    sloped,
)

if TYPE_CHECKING:
    import torch
    from torch import nn


def read_modules(module: "nn.Module") -> list[tuple[str, Operation, str]]:
    """Return the operations of a Linear or an nn.Sequential in order: name, operation and part.

    Raises UnsupportedSourceError, which names the module, for any other.
    """
    _check_no_global_hooks()
    operations: list[tuple[str, Operation, str]] = []
    for path, leaf in _leaves(module, ""):
        operation = _operation(path, leaf, is_first=not operations)
        if operation is not None:
            operations.append((path or type(leaf).__name__, operation, part_of(path, leaf)))
    if not any(isinstance(operation, Linear) for _, operation, _ in operations):
        raise _unsupported(part_of("", module), "no Linear in it")
    return operations


def _leaves(module: "nn.Module", path: str) -> Iterator[tuple[str, "nn.Module"]]:
    """Yield the modules that compute, in order, each with the path by which torch names it."""
    from torch import nn

    if not isinstance(module, nn.Module):
        raise _unsupported(f"{type(module).__name__}", "not an nn.Module")
    _check_plain(part_of(path, module), module)
    if not _is(module, nn.Sequential):
        yield path, module
        return
    if type(module).__iter__ is not nn.Sequential.__iter__:
        raise _unsupported(part_of(path, module), "an order of its own (__iter__)")
    # named_children() leaves out a module, such as an activation, that is there twice.
    for name, child in module._modules.items():
        yield from _leaves(child, f"{path}.{name}" if path else name)


def _check_plain(part: str, module: "nn.Module") -> None:
    """Raise UnsupportedSourceError if a module computes something else than its kind does."""
    from torch import nn

    kind = type(module)
    if kind.__call__ is not nn.Module.__call__ or kind._call_impl is not nn.Module._call_impl:
        raise UnsupportedSourceError(
            part, "a __call__ of its own, which may compute anything", "compute it in forward"
        )
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


def _check_no_global_hooks() -> None:
    """Raise UnsupportedSourceError for a hook on all modules of the process."""
    from torch.nn.modules import module as every

    if every._global_forward_hooks or every._global_forward_pre_hooks:
        raise UnsupportedSourceError(
            "torch.nn",
            "a forward hook for all modules, which may compute anything",
            "remove it, and import then",
        )


def _operation(path: str, leaf: "nn.Module", *, is_first: bool) -> Operation | None:
    """Return the operation of a module; None if it returns its input."""
    from torch import nn

    part = part_of(path, leaf)
    activation = _activation(part, leaf)
    if activation is not None:
        return Activate(activation)
    if _is(leaf, nn.Linear):
        W = _array(part, "weight", leaf.weight)
        return Linear(W, None if leaf.bias is None else _array(part, "bias", leaf.bias))
    if _is(leaf, nn.BatchNorm1d):
        return _normalize(part, leaf)
    if _is(leaf, nn.LayerNorm):
        if len(leaf.normalized_shape) != 1:
            raise UnsupportedSourceError(
                part,
                f"over values of shape {tuple(leaf.normalized_shape)}",
                "a Network's rows have one axis: normalize the last one",
            )
        weight, bias = (
            None if each is None else _array(part, what, each)
            for what, each in (("weight", leaf.weight), ("bias", leaf.bias))
        )
        return layer_norm(part, weight, bias, leaf.eps)
    if _is(leaf, nn.Flatten):
        if is_first and (leaf.start_dim, leaf.end_dim) == (1, -1):
            return None
        raise UnsupportedSourceError(
            part, "not a Flatten(1) of the input", "a Network's values are rows: leave it out"
        )
    if any(_is(leaf, kind) for kind in (nn.Dropout, nn.AlphaDropout, nn.Identity)):
        return None
    raise _unsupported(part, "no part of a Network")


def _activation(part: str, leaf: "nn.Module") -> AnyActivation | None:
    """Return the activation function that a module is; None if it is none."""
    from torch import nn

    plain: tuple[tuple[type[nn.Module], ActivationName], ...] = (
        (nn.ReLU, "relu"),
        (nn.Sigmoid, "sigmoid"),
        (nn.Tanh, "tanh"),
        (nn.SELU, "selu"),
        (nn.SiLU, "silu"),
        (nn.Mish, "mish"),
        (nn.Softsign, "softsign"),
        (nn.Hardsigmoid, "hard_sigmoid"),
        (nn.Hardswish, "hard_swish"),
    )
    over_rows: tuple[tuple[type[nn.Module], ActivationName], ...] = (
        (nn.Softmax, "softmax"),
        (nn.LogSoftmax, "log_softmax"),
    )
    options: Any = leaf
    for kind, name in plain:
        if _is(leaf, kind):
            return name
    for kind, name in over_rows:
        if _is(leaf, kind):
            if options.dim in (1, -1):
                return name
            raise UnsupportedSourceError(
                part, f"dim={options.dim}, where a Network's {name} is over each row", "say dim=1"
            )
    if _is(leaf, nn.LeakyReLU):
        return parametrized(part, LeakyRelu, options.negative_slope)
    if _is(leaf, nn.ELU):
        return parametrized(part, Elu, options.alpha)
    if _is(leaf, nn.GELU):
        return "gelu_tanh" if options.approximate == "tanh" else "gelu"
    if _is(leaf, nn.PReLU):
        return sloped(part, _array(part, "weight", options.weight))
    # Above the threshold torch's is z itself: the same in float32 from 20 on.
    if _is(leaf, nn.Softplus) and options.beta == 1 and options.threshold >= 20:
        return "softplus"
    return None


def _is(module: "nn.Module", kind: "type[nn.Module]") -> bool:
    """Whether a module is of a kind and computes as that kind does: not by a forward of its own."""
    own = getattr(module.forward, "__self__", None), getattr(module.forward, "__func__", None)
    return isinstance(module, kind) and own[0] is module and own[1] is kind.forward


def _normalize(part: str, norm: Any) -> Normalize:
    if norm.running_mean is None or norm.running_var is None:
        raise UnsupportedSourceError(
            part,
            "no running statistics, so that an answer depends on its batch",
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


def features(operations: Sequence[tuple[str, Operation, str]]) -> int:
    """Return the width of the input of the first module with parameters."""
    for _, operation, _ in operations:
        if isinstance(operation, Linear):
            return int(operation.W.shape[1])
        if isinstance(operation, Normalize):
            return np.size(operation.mean)
    raise AssertionError("there is a Linear")


def part_of(path: str, module: "nn.Module") -> str:
    """Return the name of a module in errors."""
    kind = type(module).__name__
    return f"module {path!r} ({kind})" if path else f"module ({kind})"


def _unsupported(part: str, why: str) -> UnsupportedSourceError:
    return UnsupportedSourceError(
        part,
        why,
        "expected an nn.Sequential of Linear, ReLU, Sigmoid, Tanh, LeakyReLU, PReLU, ELU, SELU, "
        "GELU, SiLU, Mish, Softplus(1, 20), Softsign, Hardsigmoid, Hardswish, LayerNorm, "
        "BatchNorm1d, Dropout, Identity, Flatten(1) first and Softmax or LogSoftmax last; a module "
        "with a forward of its own takes example=, a few rows",
    )
