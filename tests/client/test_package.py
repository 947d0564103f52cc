import subprocess
import sys

import forwardpass.client


def test_everything_public_is_there():
    for name in forwardpass.client.__all__:
        assert getattr(forwardpass.client, name).__module__.startswith("forwardpass.client") or (
            name == "Inputs"
        )


def test_it_imports_without_onnx_and_onnxruntime():
    program = (
        "import sys, forwardpass.client;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} "
        "& {'onnx', 'onnxruntime'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
