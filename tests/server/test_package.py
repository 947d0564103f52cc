"""The public face of the server."""

import subprocess
import sys

import pytest

import forwardpass.server


def modules_after(program: str) -> set[str]:
    program += "; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_everything_public_is_there() -> None:
    for name in forwardpass.server.__all__:
        public = getattr(forwardpass.server, name)
        assert public.__name__ == name
        assert public.__module__.startswith("forwardpass.server.")
    assert set(forwardpass.server.__all__) <= set(dir(forwardpass.server))
    with pytest.raises(AttributeError, match="has no attribute 'Sever'"):
        forwardpass.server.Sever  # noqa: B018


def test_it_imports_nothing_before_a_name_is_asked_for() -> None:
    before = modules_after("import importlib, typing")
    added = modules_after("import forwardpass.server") - before
    of_proto = {"forwardpass.proto", "forwardpass.proto.late"}
    assert added <= {"forwardpass", "forwardpass.server", *of_proto}


def test_the_settings_need_no_library() -> None:
    program = "from forwardpass.server import Config, Limits, Transport, VersionPolicy"
    packages = {name.partition(".")[0] for name in modules_after(program)}
    assert "forwardpass" in packages
    assert not packages & {"google", "grpc", "numpy", "onnx", "onnxruntime"}


def test_the_guard_is_whole_though_its_settings_come_alone() -> None:
    assert "onnx" not in modules_after("import forwardpass.server.guard")
    program = "from forwardpass.server.guard import *; print(check_file, Checked, GuardError)"
    assert "forwardpass.server.guard.check" in modules_after(program)
    assert set(forwardpass.server.guard.__all__) <= set(dir(forwardpass.server.guard))
    with pytest.raises(AttributeError, match="has no attribute 'chek_file'"):
        forwardpass.server.guard.chek_file  # noqa: B018
