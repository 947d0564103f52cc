"""Networks from Keras 3: Sequential and Functional models of Dense layers.

Keras is imported where a model is read, and not at all for a file.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.assembly import assemble
from forwardpass.models.errors import ModelsError, NetworkError, UnsupportedSourceError
from forwardpass.models.keras_file import read_file
from forwardpass.models.keras_graph import KerasGraph, read_graph
from forwardpass.models.keras_layers import KerasLayer, WeightStore
from forwardpass.models.network import Network
from forwardpass.models.pickles import unread
from forwardpass.models.ports import Input
from forwardpass.models.steps import real

if TYPE_CHECKING:
    import keras


def from_keras(
    model: "keras.Model | str | os.PathLike[str]",
    *,
    input: Input | None = None,  # noqa: A002 - the field's name
    labels: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, Sequence[str]] | None = None,
    name: str = "network",
    provenance: Mapping[str, str] | None = None,
) -> Network:
    """Return the network of a Sequential or Functional model, as it computes in inference.

    model is the model, or the path of a `.keras` file of Keras 3, which is read as data: none
    of its code is run, and Keras is not needed. Its layers are Dense, Activation, ReLU,
    Softmax, Concatenate and Add (skip connections), Normalization, Rescaling and
    BatchNormalization (they become the input's scaling, or part of their neighbours), Flatten
    of the input (left out: rows are sent flat), Dropout and the like (left out), and models of
    these.

    Layers, input and outputs have Keras' names; an output has that of its layer, or its key in
    a dict of outputs. labels and units are by output. The scaling that a given input brings
    comes before the model.

    Raises UnsupportedSourceError, which names the layer, for what a Network cannot represent
    (a Lambda, a layer of one's own, a subclassed model), MissingLibraryError if h5py is
    missing for a file.
    """
    part = f"file {str(model)!r}" if isinstance(model, str | os.PathLike) else "model"
    try:
        written, store, version = _source(model)
        graph = read_graph(written, store, input)
    except ModelsError:
        raise
    except (BadZipFile, LookupError, TypeError, ValueError, RecursionError) as error:
        raise UnsupportedSourceError(
            part, f"not of Keras 3's form ({error!r})", "save it anew with Keras 3"
        ) from error
    labels_of = _by_output(graph, "labels", labels)
    units_of = _by_output(graph, "units", units)
    heads = [
        replace(head, labels=labels_of.get(head.name, ()), units=units_of.get(head.name, ()))
        for head in graph.heads
    ]
    made_from = {"source": f"Keras {version}: {written.kind}"}
    return assemble(
        graph.source, graph.steps, heads, name=name, provenance=made_from | dict(provenance or {})
    )


def _source(
    model: "keras.Model | str | os.PathLike[str]",
) -> tuple[KerasLayer, WeightStore, str]:
    """Return what Keras writes of a model, its weights, and the version of Keras."""
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        if path.suffix.lower() != ".keras":
            raise unread(path, "no .keras file", "save the model as .keras, with Keras 3")
        return read_file(path)
    import keras

    part = f"model ({type(model).__name__})"
    if not isinstance(model, keras.Model):
        raise _not_of_keras(part)
    _check_classes(model, part)
    written = KerasLayer.parse(json.loads(model.to_json()))
    return written, _LiveWeights(model), keras.__version__


def _by_output(
    graph: KerasGraph, what: str, texts: Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]]:
    """Return labels or units by output; raises NetworkError for those of no output."""
    given = {output: tuple(each) for output, each in (texts or {}).items()}
    names = [head.name for head in graph.heads]
    for output in given:
        if output not in names:
            raise NetworkError(
                what,
                expected=f"those of the outputs {', '.join(names)}",
                got=f"some of {output!r}",
                fix="name outputs as Keras does: after their layers, or by their keys",
            )
    return given


@dataclass(frozen=True, eq=False)
class _LiveWeights:
    """The weights of a model in memory."""

    model: "keras.Model"

    def weights(self, layer: KerasLayer, names: Sequence[str]) -> list[NDArray[np.float64]]:
        from keras import ops

        own = self.model.get_layer(layer.name)
        values = []
        for name in names:
            array = ops.convert_to_numpy(getattr(own, name))
            if array.dtype.name == "bfloat16":  # no dtype of NumPy's own
                array = array.astype(np.float32)
            values.append(real(layer.part, name, array))
        return values

    def inside(self, model: KerasLayer) -> "_LiveWeights":
        return _LiveWeights(self.model.get_layer(model.name))


def _check_classes(layer: Any, part: str) -> None:
    """Raise UnsupportedSourceError for a class that is not Keras' own.

    Before a configuration is asked for: others' classes may have none.
    """
    import keras

    if not type(layer).__module__.startswith("keras."):
        raise _not_of_keras(part)
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            _check_classes(inner, f"layer {inner.name!r} ({type(inner).__name__})")


def _not_of_keras(part: str) -> UnsupportedSourceError:
    return UnsupportedSourceError(
        part,
        "not one of Keras' own classes",
        "expected a Sequential or Functional model of Keras' own layers",
    )
