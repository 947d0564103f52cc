"""Feed-forward networks in Python: define, compute, prove and export them to ONNX.

onnx is imported to write or read a model, onnxruntime to prove one; importing this package
only needs NumPy.
"""

from forwardpass.models.activations import (
    ACTIVATIONS,
    Activation,
    ActivationName,
    AnyActivation,
    Elu,
    GroupedSoftmax,
    HardSigmoid,
    LayerNorm,
    LeakyRelu,
    PRelu,
)
from forwardpass.models.calibrate import Calibration, calibrate, calibration
from forwardpass.models.categorical import Categorical
from forwardpass.models.chain import chain
from forwardpass.models.conformal import Coverage, conformal, coverage
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
from forwardpass.models.explanation import Explanation, explain
from forwardpass.models.expose import expose
from forwardpass.models.file.card import card
from forwardpass.models.file.export import export
from forwardpass.models.file.graph import to_onnx
from forwardpass.models.file.int8 import Quantized, quantize
from forwardpass.models.file.load import load
from forwardpass.models.file.proof import OutputProof, Proof
from forwardpass.models.file.publish import Published, publish
from forwardpass.models.forward import forward, propagate
from forwardpass.models.importers.keras import from_keras
from forwardpass.models.importers.onnx import from_onnx
from forwardpass.models.importers.policies import from_policy
from forwardpass.models.importers.sklearn import from_sklearn
from forwardpass.models.importers.state import from_state
from forwardpass.models.importers.torch import from_torch
from forwardpass.models.initializers import INITIALIZERS, Initializer
from forwardpass.models.layers import Dense, Layer
from forwardpass.models.merge import merge
from forwardpass.models.network import Network
from forwardpass.models.normalization import BatchNorm
from forwardpass.models.ports import Input, Output
from forwardpass.models.rounding import rounding_bound
from forwardpass.models.scaling import Scaling

__all__ = [
    "ACTIVATIONS",
    "INITIALIZERS",
    "Activation",
    "ActivationName",
    "AnyActivation",
    "BatchNorm",
    "Calibration",
    "Categorical",
    "Coverage",
    "Dense",
    "Elu",
    "Explanation",
    "ExportProofError",
    "GroupedSoftmax",
    "HardSigmoid",
    "Initializer",
    "Input",
    "Int8LossError",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "MissingLibraryError",
    "ModelExistsError",
    "ModelsError",
    "Network",
    "NetworkError",
    "Output",
    "OutputProof",
    "PRelu",
    "Proof",
    "Published",
    "Quantized",
    "Scaling",
    "UnsupportedModelError",
    "UnsupportedSourceError",
    "calibrate",
    "calibration",
    "card",
    "chain",
    "conformal",
    "coverage",
    "explain",
    "export",
    "expose",
    "forward",
    "from_keras",
    "from_onnx",
    "from_policy",
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
