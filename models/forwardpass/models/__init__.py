"""Feed-forward networks in Python: defined, computed, proven and exported to ONNX.

onnx is imported where a model is written or read, onnxruntime where one is proven: importing
this package needs NumPy alone.
"""

from forwardpass.models.activations import ACTIVATIONS, Activation
from forwardpass.models.errors import (
    ExportProofError,
    Int8LossError,
    MissingLibraryError,
    ModelExistsError,
    ModelsError,
    NetworkError,
    UnsupportedModelError,
    UnsupportedSourceError,
)
from forwardpass.models.export import export
from forwardpass.models.expose import expose
from forwardpass.models.forward import forward, propagate
from forwardpass.models.graph import to_onnx
from forwardpass.models.initializers import INITIALIZERS, Initializer
from forwardpass.models.int8 import Quantized, quantize
from forwardpass.models.keras import from_keras
from forwardpass.models.layers import Dense, Layer
from forwardpass.models.merge import merge
from forwardpass.models.network import Network
from forwardpass.models.onnx import from_onnx
from forwardpass.models.onnx_import import load
from forwardpass.models.ports import Input, Output
from forwardpass.models.proof import OutputProof, Proof
from forwardpass.models.publish import Published, publish
from forwardpass.models.rounding import rounding_bound
from forwardpass.models.scaling import Scaling
from forwardpass.models.sklearn import from_sklearn
from forwardpass.models.state import from_state
from forwardpass.models.torch import from_torch

__all__ = [
    "ACTIVATIONS",
    "INITIALIZERS",
    "Activation",
    "Dense",
    "ExportProofError",
    "Initializer",
    "Input",
    "Int8LossError",
    "Layer",
    "MissingLibraryError",
    "ModelExistsError",
    "ModelsError",
    "Network",
    "NetworkError",
    "Output",
    "OutputProof",
    "Proof",
    "Published",
    "Quantized",
    "Scaling",
    "UnsupportedModelError",
    "UnsupportedSourceError",
    "export",
    "expose",
    "forward",
    "from_keras",
    "from_onnx",
    "from_sklearn",
    "from_state",
    "from_torch",
    "load",
    "merge",
    "propagate",
    "publish",
    "quantize",
    "rounding_bound",
    "to_onnx",
]
