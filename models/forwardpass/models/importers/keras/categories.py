"""Columns of categories, which Keras looks up, embeds and encodes: inputs that a file encodes.

A vocabulary becomes the categories of an input. Keras' index for values out of it is a category
too, that of its `oov_token`: every other value is read as that one. What layers read of an input
is one-hot; embeddings are layers on it.
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.categorical import REFUSE, ZEROS, Categorical
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.keras.layers import (
    LOOKUPS,
    KerasLayer,
    WeightStore,
    check_option,
)
from forwardpass.models.importers.steps import Linear

_MAX_CATEGORIES = 2**20
"""Maximum categories of an input: a small file may claim numbers that fill any memory."""
_MAX_WEIGHTS = 2**26
"""Maximum elements of a matrix that only moves one-hots to their places."""
_HOTS = ("one_hot", "multi_hot")
"""Encodings of a column, which are the same for one value a row."""

_Values: TypeAlias = tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Column:
    """One column of categories, or of the indices that a lookup made of them."""

    source: str
    """The name of the input."""
    kind: str
    """The dtype of the input in Keras, such as `string`."""
    indices: NDArray[np.intp] | None = None
    """The index of each category of the input, -1 for none; None for values as they are sent."""


class CategoryInputs:
    """The inputs of categories, made where the first layer reads them."""

    def __init__(self) -> None:
        self.made: dict[str, Categorical] = {}
        """The inputs, by name."""

    def read(
        self, layer: KerasLayer, store: WeightStore, column: Column
    ) -> tuple[Column, Linear | None, int]:
        """Return a layer's indices, or what computes its row of each category, and its width.

        The operation reads the one-hot rows of the column's input; None if these are its rows. A
        width of 0 says that the layer returns indices.

        Raises UnsupportedSourceError, which names the layer, for what a Network cannot represent.
        """
        if layer.kind in LOOKUPS:
            indices = self._looked_up(layer, store, column)
        else:
            indices = self._numbered(layer, column) if column.indices is None else column.indices
        found = replace(column, indices=indices)
        if layer.kind == "Embedding":
            (table,) = store.weights(layer, ["embeddings"])
            _check_known(layer, indices, len(table))
            return found, Linear(np.ascontiguousarray(table[indices].T)), table.shape[1]
        if layer.kind == "CategoryEncoding":
            check_option(layer, "output_mode", *_HOTS)
            width = int(layer.config["num_tokens"])
            _check_known(layer, indices, width)
        elif layer.config["output_mode"] == "int":
            return found, None, 0
        else:
            padded = layer.config["pad_to_max_tokens"] and layer.config["max_tokens"]
            width = int(padded or indices.max() + 1)
        return found, _one_hot(layer, indices, width), width

    def _looked_up(self, layer: KerasLayer, store: WeightStore, column: Column) -> NDArray[np.intp]:
        check_option(layer, "invert", False)
        check_option(layer, "output_mode", "int", *_HOTS)
        check_option(layer, "num_oov_indices", 1, 0)
        check_option(layer, "encoding", "utf-8", None)
        check_option(layer, "vocabulary_dtype", "int64", "string", None)
        if column.indices is not None:
            raise UnsupportedSourceError(
                layer.part, "looks up the indices of another lookup", "look them up once"
            )
        is_text = layer.kind == "StringLookup"
        if is_text != (column.kind == "string"):
            raise UnsupportedSourceError(
                layer.part,
                f"reads input {column.source!r} of dtype {column.kind}",
                "a StringLookup reads texts, an IntegerLookup integers",
            )
        categories, indices, otherwise = _vocabulary(layer, store, str if is_text else int)
        return self._indices(layer, column, categories, indices, otherwise)

    def _numbered(self, layer: KerasLayer, column: Column) -> NDArray[np.intp]:
        """Return the indices of a column whose values are indices: no other one has an answer."""
        count = layer.config["input_dim" if layer.kind == "Embedding" else "num_tokens"]
        if column.kind == "string" or not 0 < count <= _MAX_CATEGORIES:
            raise UnsupportedSourceError(
                layer.part,
                f"{count} categories of input {column.source!r} of dtype {column.kind}",
                f"expected integers, at most {_MAX_CATEGORIES} of them",
            )
        return self._indices(layer, column, tuple(range(count)), np.arange(count), REFUSE)

    def _indices(
        self,
        layer: KerasLayer,
        column: Column,
        categories: _Values,
        indices: NDArray[np.intp],
        unknown: str | int,
    ) -> NDArray[np.intp]:
        """Return indices in the order of the input's categories, of which they may be the first."""
        made = self.made.setdefault(column.source, Categorical(column.source, categories, unknown))
        place = dict(zip(categories, indices, strict=True))
        if place.keys() != set(made.categories) or unknown != made.unknown:
            raise UnsupportedSourceError(
                layer.part,
                f"other categories of input {column.source!r} than another layer has",
                "give all of its lookups one vocabulary",
            )
        return np.array([place[each] for each in made.categories], np.intp)


def _vocabulary(
    layer: KerasLayer, store: WeightStore, kind: type
) -> tuple[_Values, NDArray[np.intp], str | int]:
    """Return a lookup's categories, their indices, and what it reads any other value as."""
    options = layer.config
    mask, oov = options["mask_token"], options["oov_token"]
    has_oov = options["num_oov_indices"] == 1
    is_int = options["output_mode"] == "int"
    # Only as an index a mask is something; a one-hot of it is all zeros.
    special = [mask] * (mask is not None and is_int) + [oov] * has_oov
    tokens = list(store.vocabulary(layer))
    if {type(each) for each in tokens} - {kind}:
        raise UnsupportedSourceError(
            layer.part,
            f"a vocabulary not only of {kind.__name__}",
            f"give it a list of {kind.__name__}",
        )
    if tokens[: len(special)] == special:
        del tokens[: len(special)]
    size = options.get("vocabulary_size") or len(tokens) + len(special)
    if len(tokens) + len(special) != size:
        raise UnsupportedSourceError(
            layer.part,
            f"a vocabulary of {len(tokens)} tokens, where {size - len(special)} were learned",
            "a file keeps no token with a line break, and no empty one at its end: import the "
            "model from memory",
        )
    if not 0 < len(tokens) <= _MAX_CATEGORIES:
        raise UnsupportedSourceError(
            layer.part,
            f"a vocabulary of {len(tokens)} tokens",
            f"expected 1 to {_MAX_CATEGORIES}: adapt it, or give it max_tokens",
        )
    if has_oov and (oov in (None, mask, REFUSE, ZEROS) or oov in tokens):
        raise UnsupportedSourceError(
            layer.part,
            f"oov_token={oov!r}, which is no category of its own",
            "give it an oov_token that is no token of the vocabulary",
        )
    categories = [mask] * (mask is not None) + [oov] * has_oov + tokens
    first = 0 if is_int or mask is None else -1
    return tuple(categories), np.arange(first, first + len(categories)), oov if has_oov else REFUSE


def _check_known(layer: KerasLayer, indices: NDArray[np.intp], count: int) -> None:
    """Raise UnsupportedSourceError unless a layer has a row for each index."""
    if indices.max() >= count:
        # Keras' backends answer others with an error, or with zeros.
        raise UnsupportedSourceError(
            layer.part,
            f"{count} rows for the indices 0 to {indices.max()}",
            "give it as many as the lookup's vocabulary_size()",
        )


def _one_hot(layer: KerasLayer, indices: NDArray[np.intp], width: int) -> Linear | None:
    """Return what makes one-hots of indices of those of the input; None if they are the same."""
    if len(indices) == width and np.array_equal(indices, np.arange(width)):
        return None
    if width * len(indices) > _MAX_WEIGHTS:
        raise UnsupportedSourceError(
            layer.part,
            f"one-hots of {width} columns for {len(indices)} categories in another order",
            "leave out mask_token and pad_to_max_tokens",
        )
    return Linear((np.arange(width)[:, np.newaxis] == indices).astype(np.float64))
