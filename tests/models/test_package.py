import subprocess
import sys

import forwardpass.models


def test_every_public_name_is_there():
    assert all(hasattr(forwardpass.models, name) for name in forwardpass.models.__all__)


def test_importing_it_and_computing_needs_neither_onnx_nor_onnxruntime():
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
