"""The constants of a graph, as far as they are easily known, and the products with them."""

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardpass.server.engine.row_wise import SAME_SHAPE, integer
from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.guard.parse import raw_data
from forwardpass.server.onnx_messages import GraphProto, NodeProto, TensorProto

_MAX_READ = 2**22
"""Maximum number of elements of a constant that is read at all."""
_MAX_ALL_READ = 2**24
"""Maximum number of elements of all constants that are read, and of what is computed of them."""
_MAX_CHAIN = 2**6
"""Maximum number of nodes on the way from a constant that is read to what is computed of it."""
_DTYPES: Mapping[int, tuple[str, str]] = {
    TensorProto.FLOAT: ("<f4", "float_data"),
    TensorProto.DOUBLE: ("<f8", "double_data"),
    TensorProto.INT8: ("<i1", "int32_data"),
    TensorProto.UINT8: ("<u1", "int32_data"),
    TensorProto.INT32: ("<i4", "int32_data"),
    TensorProto.INT64: ("<i8", "int64_data"),
    TensorProto.FLOAT16: ("<f2", ""),
}
"""NumPy dtype of a constant, and its field where it has no raw bytes."""


class Matrix(NamedTuple):
    """A product with a constant matrix."""

    node: NodeProto
    reads: str
    """The tensor that is multiplied."""
    constant: str


class Constants:
    """Reads constants when they are asked for."""

    def __init__(self, graph: GraphProto, content: ModelBytes) -> None:
        """Prepare; content: The file's bytes, which have to be there as long as this is used."""
        self._content = content
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.names: Collection[str] = self._tensors.keys()
        self._nodes: dict[str, NodeProto] = {}
        self._values: dict[str, NDArray[Any] | None] = {}
        self._chains: dict[str, int] = {}
        """By tensor that is computed of constants: nodes on the way to it."""
        self._left = _MAX_ALL_READ

    def fits(self, size: int) -> bool:
        """Note that so many elements more are kept; return whether they may be."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def computed(self, node: NodeProto) -> None:
        """Note a node that reads constants alone."""
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                self._tensors[node.output[0]] = attribute.t
                return
        chain = 1 + max((self._chains.get(name, 0) for name in node.input), default=0)
        self._chains.update(dict.fromkeys(node.output, chain))
        if chain <= _MAX_CHAIN:
            self._nodes.update(dict.fromkeys(node.output, node))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a constant; None if it is not known."""
        tensor = self._tensors.get(name)
        if tensor is not None:
            return tuple(tensor.dims)
        node = self._nodes.get(name)
        if node is not None and node.op_type in SAME_SHAPE:
            return self.shape(node.input[0])
        value = self.value(name)
        return None if value is None else value.shape

    def value(self, name: str) -> NDArray[Any] | None:
        """Return a constant; None if it is not known, or very large."""
        if name not in self._values:
            # First: a constant that is computed from itself is not known.
            self._values[name] = None
            self._values[name] = self._read(name)
        return self._values[name]

    def matrix_shape(self, matrix: Matrix) -> tuple[int, int]:
        """Return (columns that a product gives, columns that it reads)."""
        rows, columns = self.shape(matrix.constant) or (0, 0)
        return (rows, columns) if integer(matrix.node, "transB", 0) else (columns, rows)

    def matrix(self, matrix: Matrix) -> NDArray[Any] | None:
        """Return the matrix of a product, of that shape."""
        value = self.value(matrix.constant)
        if value is None:
            return None
        alpha = next((each.f for each in matrix.node.attribute if each.name == "alpha"), 1.0)
        W = value if alpha == 1.0 else value * value.dtype.type(alpha)
        return W if integer(matrix.node, "transB", 0) else W.T

    def _read(self, name: str) -> NDArray[Any] | None:
        tensor = self._tensors.get(name)
        if tensor is not None:
            return self._decoded(tensor)
        node = self._nodes.get(name)
        if node is None:
            return None
        first = self.value(node.input[0]) if node.input else None
        if first is None:
            return None
        if node.op_type == "Identity":
            return first
        if not self.fits(first.size):
            return None
        match node.op_type:
            case "Cast" if integer(node, "to", 0) in _DTYPES:
                return first.astype(_DTYPES[integer(node, "to", 0)][0])
            case "Transpose":
                axes = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
                return first.transpose(axes)
            case "DequantizeLinear":
                return self._dequantized(node, first)
        return None

    def _decoded(self, tensor: TensorProto) -> NDArray[Any] | None:
        dtype, field = _DTYPES.get(tensor.data_type, ("", ""))
        shape = tuple(tensor.dims)
        if not dtype or math.prod(shape) > _MAX_READ or not self.fits(math.prod(shape)):
            return None
        raw = raw_data(tensor, self._content)
        if raw is not None:
            # Copied: a view would keep the file open.
            return np.frombuffer(bytes(raw), dtype).reshape(shape)
        return np.array(getattr(tensor, field), dtype).reshape(shape) if field else None

    def _dequantized(self, node: NodeProto, values: NDArray[Any]) -> NDArray[Any] | None:
        scale = self.value(node.input[1])
        zero = self.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if scale is None or (len(node.input) > 2 and node.input[2] and zero is None):
            return None
        axis = integer(node, "axis", 1)
        along = [1] * values.ndim
        if scale.size > 1:
            if not -values.ndim <= axis < values.ndim or scale.size != values.shape[axis]:
                return None
            along[axis] = scale.size
        exact = values.astype(np.float32)
        if zero is not None:
            exact -= zero.astype(np.float32).reshape(along if zero.size > 1 else ())
        return exact * scale.astype(np.float32).reshape(along if scale.size > 1 else ())
