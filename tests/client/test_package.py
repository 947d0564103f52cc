import subprocess
import sys
from importlib.util import find_spec

import pytest

import forwardpass.client


def test_everything_public_is_there():
    for name in forwardpass.client.__all__:
        assert getattr(forwardpass.client, name).__module__.startswith("forwardpass.client") or (
            name == "Inputs"
        )


def modules_after(program):
    program += "; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_it_imports_without_onnx_and_onnxruntime():
    packages = {name.partition(".")[0] for name in modules_after("import forwardpass.client")}
    assert "forwardpass" in packages
    assert not packages & {"onnx", "onnxruntime"}


def test_what_only_some_programs_use_is_not_imported_before():
    late: tuple[str, ...] = ("_conversation.progress", "_grpc.async_client", "_messages.features")
    late += ("local", "served", "timing", "_html")
    ours = {f"forwardpass.client.{name}" for name in late} | {"forwardpass.proto.verdicts"}
    assert all(find_spec(name) for name in ours)
    theirs = {"google.protobuf.descriptor_pb2", "json", "pathlib", "random"}
    before = modules_after("import grpc, numpy")
    assert not (modules_after("import forwardpass.client") - before) & (ours | theirs)
    assert not [name for name in ours if not find_spec(name)]


def test_a_name_that_is_imported_late_is_there_as_any_other():
    program = "from forwardpass.client import *; print(AsyncClient, load)"
    assert "forwardpass.client._grpc.async_client" in modules_after(program)
    assert set(forwardpass.client.__all__) <= set(dir(forwardpass.client))
    with pytest.raises(AttributeError, match="has no attribute 'Cleint'"):
        forwardpass.client.Cleint  # noqa: B018
