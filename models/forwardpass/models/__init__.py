"""Feed-forward networks in Python: defined, computed, proven and exported to ONNX.

onnx is imported where a model is written or read, onnxruntime where one is proven: importing
this package needs NumPy alone.
"""

from forwardpass.models.activations import ACTIVATIONS, Activation
from forwardpass.models.errors import (
    ExportProofError,
    ModelExistsError,
    ModelsError,
    NetworkError,
    UnsupportedModelError,
)
from forwardpass.models.export import export
from forwardpass.models.forward import forward, propagate
from forwardpass.models.graph import to_onnx
from forwardpass.models.initializers import INITIALIZERS, Initializer
from forwardpass.models.layers import Dense, Layer
from forwardpass.models.network import Network
from forwardpass.models.onnx_import import load
from forwardpass.models.ports import Input, Output
from forwardpass.models.proof import OutputProof, Proof
from forwardpass.models.publish import Published, publish
from forwardpass.models.rounding import rounding_bound

__all__ = [
    "ACTIVATIONS",
    "INITIALIZERS",
    "Activation",
    "Dense",
    "ExportProofError",
    "Initializer",
    "Input",
    "Layer",
    "ModelExistsError",
    "ModelsError",
    "Network",
    "NetworkError",
    "Output",
    "OutputProof",
    "Proof",
    "Published",
    "UnsupportedModelError",
    "export",
    "forward",
    "load",
    "propagate",
    "publish",
    "rounding_bound",
    "to_onnx",
]
