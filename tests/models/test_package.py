import ast
import inspect
import subprocess
import sys
import textwrap

import pytest

import forwardpass.models
from forwardpass.models import Categorical, Input, Output, Scaling
from forwardpass.models.layers import Layer


def test_every_public_name_is_there() -> None:
    assert all(hasattr(forwardpass.models, name) for name in forwardpass.models.__all__)


def test_importing_it_and_computing_needs_neither_onnx_nor_onnxruntime() -> None:
    program = (
        "import sys; sys.modules['onnx'] = sys.modules['onnxruntime'] = None\n"
        "from forwardpass.models import Network, rounding_bound\n"
        "network = Network.chain([3, 3, 1], 'sigmoid', 'sigmoid')\n"
        "print(network([1, 2, 3])['y'].shape, rounding_bound(network, [1, 2, 3])['y'].shape)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert result.stdout.split("\n")[0] == "(1,) (1,)"


@pytest.mark.parametrize("kind", [Input, Categorical, Output, Scaling, Layer])
def test_the_constructor_that_type_checkers_see_has_the_parameters_of_the_real_one(
    kind: type,
) -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    (seen,) = (
        each
        for each in ast.walk(tree)
        if isinstance(each, ast.FunctionDef) and each.name == "__init__"
    )
    real = inspect.signature(kind).parameters.values()
    assert [each.arg for each in seen.args.args[1:]] == [each.name for each in real]
    defaults = [each.default for each in real if each.default is not inspect.Parameter.empty]
    shown = [ast.literal_eval(each) for each in seen.args.defaults]
    # The one of a default_factory has no value to compare with.
    assert len(shown) == len(defaults)
    assert [each for each in shown if each is not ...] == [
        each for each in defaults if isinstance(each, str | tuple | None)
    ]
