"""Networks from Keras 3: Sequential and Functional models of Dense layers.

Keras is imported where a model is read, and not at all for a file.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from forwardpass.models.errors import ModelsError, NetworkError, UnsupportedSourceError
from forwardpass.models.importers.agreement import Check, Reading
from forwardpass.models.importers.assembly import assemble
from forwardpass.models.importers.keras.file import read_file
from forwardpass.models.importers.keras.graph import KerasGraph, read_graph
from forwardpass.models.importers.keras.layers import KerasLayer, WeightStore
from forwardpass.models.importers.keras.live import (
    arithmetic_of,
    not_of_keras,
    predicted,
    read_live,
)
from forwardpass.models.importers.pickles import unread
from forwardpass.models.network import Inputs, Network

if TYPE_CHECKING:
    import keras


def from_keras(
    model: "keras.Model | str | os.PathLike[str]",
    *,
    input: Inputs | None = None,  # noqa: A002 - one of them, or several
    labels: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, Sequence[str]] | None = None,
    name: str = "network",
    provenance: Mapping[str, str] | None = None,
    check: Check | None = None,
) -> Network:
    """Return the network of a Sequential or Functional model, as it computes in inference.

    model is the model, or the path of a `.keras` file of Keras 3, which is read as data: none
    of its code is run, and Keras is not needed. Its layers are Dense, Activation, ReLU,
    LeakyReLU, PReLU, ELU, Softmax, Concatenate, Add, Subtract and Average, Normalization,
    Rescaling and BatchNormalization (they become the input's scaling, or part of their
    neighbors), Flatten, and Reshape to rows (left out: rows are sent flat), Dropout and the like
    (left out), StringLookup, IntegerLookup, CategoryEncoding and Embedding of an input of one
    column, and models of these.

    Layers, inputs and outputs have Keras' names; an output has that of its layer, or its key in
    a dict of outputs. labels and units are by output. The scaling of a given input comes before
    the model; for several inputs, which a Concatenate may join, give a sequence. What is looked
    up, embedded or encoded is an input of categories: an unknown one is read as the oov_token, or
    has no answer where Keras has none. Those inputs are the model's own, and none is given.

    A model in memory is read from its objects, not from its configuration, and the network is
    compared with the model's own answers to a few rows. A file is read and never run. Both are
    compared with check, if it is given: rows and the answers to them, by output if there are
    several.

    Raises UnsupportedSourceError, which names the layer, for what a Network cannot represent
    (a Lambda, a custom layer or function, a subclassed model), and, naming row and output, if
    the answers differ by more than rounding explains; MissingLibraryError if h5py is missing for
    a file.
    """
    part = f"file {str(model)!r}" if isinstance(model, str | os.PathLike) else "model"
    try:
        written, store, version = _source(model)
        graph = read_graph(written, store, input)
    except ModelsError:
        raise
    except (BadZipFile, LookupError, TypeError, ValueError, RecursionError) as error:
        raise UnsupportedSourceError(
            part, f"not of Keras 3's form ({error!r})", "save it again with Keras 3"
        ) from error
    labels_of = _by_output(graph, "labels", labels)
    units_of = _by_output(graph, "units", units)
    heads = [
        replace(head, labels=labels_of.get(head.name, ()), units=units_of.get(head.name, ()))
        for head in graph.heads
    ]
    made_from = {"source": f"Keras {version}: {written.kind}"}
    network = assemble(
        graph.source, graph.steps, heads, name=name, provenance=made_from | dict(provenance or {})
    )
    reading = Reading(graph.source, graph.steps, heads)
    if not isinstance(model, str | os.PathLike):
        reading.check_source(
            network, lambda rows: predicted(model, rows, written), arithmetic_of(model)
        )
    reading.check_rows(network, check)
    return network


def _source(
    model: "keras.Model | str | os.PathLike[str]",
) -> tuple[KerasLayer, WeightStore, str]:
    """Return a model in the form of Keras' files, its weights, and the version of Keras."""
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        if path.suffix.lower() != ".keras":
            raise unread(path, "not a .keras file", "save the model as .keras, with Keras 3")
        return read_file(path)
    import keras

    if not isinstance(model, keras.Model):
        raise not_of_keras(f"model ({type(model).__name__})")
    return *read_live(model), keras.__version__


def _by_output(
    graph: KerasGraph, what: str, texts: Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]]:
    """Return labels or units by output; raises NetworkError for names that are no output."""
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
