"""Networks from PyTorch: nn.Sequential, and modules with a forward of their own.

torch is imported where a module is read, not with this module.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.importers.agreement import FLOAT32, FLOAT64, Arithmetic, Check, Reading
from forwardpass.models.importers.assembly import assemble
from forwardpass.models.importers.pickles import refuse_file
from forwardpass.models.importers.steps import Head, chain
from forwardpass.models.importers.torch.graph import Place, TorchGraph, exported, named, read_graph
from forwardpass.models.importers.torch.modules import features, part_of, read_modules
from forwardpass.models.network import Network
from forwardpass.models.ports import Input

if TYPE_CHECKING:
    import torch
    from torch import nn

Texts = Sequence[str] | Mapping[str, Sequence[str]]
"""Labels or units: those of the one output, or by output."""


def from_torch(
    module: "nn.Module",
    example: ArrayLike | None = None,
    *,
    input: Input | None = None,  # noqa: A002 - the field's name
    output: str | Sequence[str] = "y",
    labels: Texts = (),
    units: Texts = (),
    name: str = "network",
    provenance: Mapping[str, str] | None = None,
    check: Check | None = None,
) -> Network:
    """Return the network of a module, as it computes in eval mode.

    Without an example it is a Linear, or an nn.Sequential, nested as you like, of Linear,
    activations (ReLU, Sigmoid, Tanh, LeakyReLU, PReLU, ELU, SELU, GELU, SiLU, Mish, Softplus,
    Softsign, Hardsigmoid, Hardswish), BatchNorm1d with running statistics (folded into its
    neighbors), Dropout and Identity (left out), Flatten first (left out: rows are sent flat) and
    Softmax or LogSoftmax last.

    With an example, rows (n, ...) such as the module takes, it is any module whose `forward` is a
    feed-forward network: `torch.export` makes a graph of it. Rows are sent flat, in any number.
    Tensors that it returns in a dict are outputs with its keys; in a tuple they are `y.0`, `y.1`
    and so on. output is the name of a single tensor, or a sequence of one name for each.

    Layers keep their names in the module, as in `2` or `trunk.0`. The scaling of input comes
    before the module. labels and units are those of a single output, or by output. torch.compile,
    DataParallel and DistributedDataParallel are taken off.

    The network is compared with the answers of the module to a few rows, computed by a copy in
    float64 (in float32, where it works only in that), on the CPU and in eval mode; the module does
    not change. It is compared with check too: rows and the answers to them.

    Raises UnsupportedSourceError, which names the module, or the operation with its line, for
    anything else and for any file, as torch's are pickles; and, naming row and output, if the
    answers differ by more than rounding explains.
    """
    refuse_file(
        module,
        "load it with torch.load(path, weights_only=True) into a module and pass that, or save "
        "the state as .safetensors for from_state",
    )
    import torch

    module = _unwrapped(module)
    if example is None:
        operations = read_modules(module)
        source = Input(features(operations)) if input is None else input
        steps = chain(source.name, operations)
        places = [Place("", (steps[-1].name,))]
        shape, arithmetic = (source.size,), FLOAT64
        exact = _copied(module, torch.float64)
    else:
        rows = _example(example)
        shape = tuple(rows.shape[1:])
        source = Input(math.prod(shape)) if input is None else _of_size(input, shape)
        graph, exact, arithmetic = read_forward(module, rows, source.name)
        steps, places = graph.steps, graph.outputs
    heads = _heads(places, output, labels, units)
    made_from = {"source": f"torch {torch.__version__}: {type(module).__name__}"}
    network = assemble(
        source, steps, heads, name=name, provenance=made_from | dict(provenance or {})
    )
    reading = Reading(source, steps, heads)
    reading.check_source(network, lambda rows: _predicted(exact, rows, shape), arithmetic)
    reading.check_rows(network, check)
    return network


def read_forward(
    module: "nn.Module", rows: "torch.Tensor", source: str
) -> tuple[TorchGraph, "nn.Module", Arithmetic]:
    """Return the steps of a module on a named value, and a copy of it with its arithmetic.

    rows are some that it takes. Raises UnsupportedSourceError for what a Network cannot represent.
    """
    import torch

    exact, arithmetic = _copied(module, torch.float64), FLOAT64
    if not _works(exact, rows.double()):
        # As with one that casts to float32 itself.
        exact, arithmetic = _copied(module, torch.float32), FLOAT32
    return read_graph(exported(exact, rows.to(_dtype(exact))), source), exact, arithmetic


def _unwrapped(module: Any) -> Any:
    """Return a module without what compiles it, or runs it on several devices."""
    from torch import nn

    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(module, nn.Module) and "_orig_mod" in module._modules:
            module = module._orig_mod
        else:
            return module


def _copied(module: "nn.Module", dtype: "torch.dtype") -> "nn.Module":
    """Return a copy that computes exactly as the module does in eval mode, on the CPU.

    Neither the mode nor the precision of the module changes. Rounding to float32 must not count as
    a difference either: some of its operations cancel most of a large mean.
    """
    exact = copy.deepcopy(module).cpu().to(dtype).eval()
    for path, each in exact.named_modules():
        if each.training:
            raise UnsupportedSourceError(
                part_of(path, each),
                "it stays in training after eval(): its answers depend on more than the row",
                "leave out what keeps it in training",
            )
    return exact


def _works(exact: "nn.Module", rows: "torch.Tensor") -> bool:
    """Whether a module computes in the precision of a copy."""
    import torch

    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            exact(rows)
    except RuntimeError:
        return False
    return True


def _dtype(exact: "nn.Module") -> "torch.dtype":
    import torch

    return next((each.dtype for each in exact.parameters()), torch.float64)


def _predicted(
    exact: "nn.Module", rows: NDArray[np.float64], shape: tuple[int, ...]
) -> list[NDArray[Any]]:
    """Return a module's own answers in inference: for each output in a row's values, flat."""
    import torch

    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        returned = exact(torch.from_numpy(rows).to(_dtype(exact)).reshape(len(rows), *shape))
        return [
            value.numpy().reshape(len(rows), -1)
            for _, value in named(returned)
            if value is not None
        ]


def _example(example: Any) -> "torch.Tensor":
    import torch

    rows = example.detach() if isinstance(example, torch.Tensor) else np.asarray(example)
    rows = torch.as_tensor(rows).cpu()
    if rows.ndim < 2 or 0 in rows.shape or rows.is_complex():
        raise NetworkError(
            "example",
            expected="rows of numbers as the module takes them, of shape (n, width)",
            got=f"{rows.dtype} of shape {tuple(rows.shape)}",
            fix="give a few rows, as in x[:2]",
        )
    return rows


def _of_size(source: Input, shape: tuple[int, ...]) -> Input:
    if source.size != math.prod(shape):
        raise NetworkError(
            f"input {source.name!r}",
            expected=f"size {math.prod(shape)}, that of the example's rows",
            got=str(source.size),
            fix="give both the same size",
        )
    return source


def _heads(
    places: Sequence[Place],
    output: str | Sequence[str],
    labels: Texts,
    units: Texts,
) -> list[Head]:
    """Return the outputs, with their names and texts."""
    if isinstance(output, str):
        names = list(_default_names([place.path for place in places], output))
    else:
        names = list(output)
        if len(names) != len(places):
            raise NetworkError(
                "output",
                expected=f"a name for each of the {len(places)} tensors that the module returns",
                got=", ".join(names),
                fix="name them in its order, those of a dict in the order of its keys",
            )
    labels_of, units_of = (
        dict(_by_output(what, texts, names))
        for what, texts in (("labels", labels), ("units", units))
    )
    return [
        Head(
            name=name,
            reads=place.reads,
            labels=labels_of.get(name, ()),
            units=units_of.get(name, ()),
        )
        for name, place in zip(names, places, strict=True)
    ]


def _default_names(places: Sequence[str], output: str) -> Iterator[str]:
    for place in places:
        if not place:
            yield output
        else:
            yield f"{output}.{place}" if place[0].isdigit() else place


def _by_output(
    what: str, texts: Texts, names: Sequence[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    if isinstance(texts, Mapping):
        given = {name: tuple(each) for name, each in texts.items()}
    else:
        given = {names[0] if len(names) == 1 else "": tuple(texts)} if texts else {}
    for name, each in given.items():
        if name not in names:
            raise NetworkError(
                what,
                expected=f"those of the outputs {', '.join(names)}",
                got=f"some of {name!r}" if name else "one sequence",
                fix="give them by output",
            )
        yield name, each
