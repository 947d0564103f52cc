"""ONNX's own node cases of a layer's operators, as models that anyone may bring, are answered.

Inputs but the first become the file's weights; nothing else is changed.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from onnx.backend.test.case import node
from onnx.backend.test.case.test_case import TestCase
from support import onnx_files
from support.rpc import Stub
from support.wire import arrays, infer_request

from forwardpass.server.app import Server
from forwardpass.server.config import Config

NAMES = (
    "test_gemm_default_zero_bias",
    "test_gemm_default_no_bias",
    "test_gemm_default_scalar_bias",
    "test_gemm_default_single_elem_vector_bias",
    "test_gemm_default_vector_bias",
    "test_gemm_default_matrix_bias",
    "test_gemm_transposeA",
    "test_gemm_transposeB",
    "test_gemm_alpha",
    "test_gemm_beta",
    "test_gemm_all_attributes",
    "test_relu",
    "test_relu_expanded_ver18",
    "test_sigmoid",
    "test_sigmoid_example",
    "test_tanh",
    "test_tanh_example",
)


def suite() -> dict[str, TestCase]:
    """All cases of the four operators, by name."""
    operators = ("gemm", "relu", "sigmoid", "tanh")
    # Collecting all operators' cases, the documented way, takes ten times as long.
    for operator in operators:
        import_module(f"{node.__name__}.{operator}")
    return {case.name: case for case in node._NodeTestCases if case.name.split("_")[1] in operators}


def with_weights(case: TestCase) -> ModelProto:
    assert case.model is not None
    assert case.data_sets is not None
    model = ModelProto()
    model.CopyFrom(case.model)
    (inputs, _), *_ = case.data_sets
    for value, array in list(zip(model.graph.input, inputs, strict=True))[1:]:
        model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        model.graph.input.remove(value)
    return model


@pytest.fixture(scope="module")
def cases() -> dict[str, TestCase]:
    return suite()


@pytest.fixture(scope="module")
def stub(cases: dict[str, TestCase], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    """Calls to a server of all cases, with its defaults."""
    root: Path = tmp_path_factory.mktemp("cases")
    for name, case in cases.items():
        onnx_files.save(with_weights(case), root / name / "1" / "model.onnx")
    with Server(Config(models=root, port=0)) as server, Stub(server.port) as stub:
        yield stub


def test_none_of_the_seventeen_is_lost(cases: dict[str, TestCase]) -> None:
    assert len(set(NAMES)) == 17
    assert set(NAMES) <= set(cases)


@pytest.mark.parametrize("name", NAMES)
def test_a_case_is_answered_within_the_suites_tolerance(
    cases: dict[str, TestCase], stub: Stub, name: str
) -> None:
    case = cases[name]
    assert case.model is not None
    assert case.data_sets is not None
    ((x, *_), expected) = case.data_sets[0]
    names = [value.name for value in case.model.graph.output]

    answers = arrays(stub.infer(infer_request(name, {case.model.graph.input[0].name: x})))

    assert list(answers) == names
    for array, wanted in zip(answers.values(), expected, strict=True):
        assert array.dtype == wanted.dtype
        assert array.shape == wanted.shape
        np.testing.assert_allclose(array, wanted, rtol=case.rtol, atol=case.atol)
