"""`forwardpass export`: what it takes, what it writes, what it refuses."""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.command import environment, run, run_here, started
from support.foreign import node, written
from support.keras_files import dense, input_layer, keras_file, sequential

from forwardpass.models import Elu, LeakyRelu, load
from forwardpass.models.zoo import ZOO

NETS = """
import beside
from forwardpass.models import Network

network = Network.chain([3, 4, 2], seed=beside.SEED, name="from_file")

def make():
    return network

def fails():
    return 1 / 0

wide = lambda: Network.chain([3, 0, 1])
text = "no network"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `nets.py`, a module that reads another one beside it."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "beside.py").write_text("SEED = 7\n")
    (tmp_path / "broken.py").write_text("network = (\n")
    return tmp_path


def test_an_example_becomes_a_file_that_reads_back_equal(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "linnerud.onnx"
    done = run("export", "linnerud", file)
    assert done.code == 0
    assert load(file) == ZOO["linnerud"].network()
    assert f"wrote {file} ({file.stat().st_size:,} bytes)" in done.stdout
    assert all(name in done.stdout for name in ("proven", "weight", "waist", "pulse", "bound"))


def test_a_repository_gets_version_after_version(tmp_path: Path) -> None:
    for version in (1, 2):
        done = run("export", "linnerud", tmp_path)
        assert done.code == 0
        assert f"{tmp_path}/linnerud/{version}/model.onnx" in done.stdout
    done = run("export", "linnerud", tmp_path, "--version", "9")
    assert done.code == 0
    assert sorted(path.name for path in (tmp_path / "linnerud").iterdir()) == ["1", "2", "9"]


def test_a_store_gets_a_version_and_a_url_with_credentials_is_refused(tmp_path: Path) -> None:
    store = (tmp_path / "store").as_uri()
    done = run_here("export", "linnerud", store)
    assert done.code == 0
    assert f"wrote {store}/linnerud/1/model.onnx" in done.stdout.replace("\n", "")
    assert load(tmp_path / "store/linnerud/1/model.onnx") == ZOO["linnerud"].network()
    done = run_here("export", "linnerud", "https://host/models?sig=SECRET")
    assert done.code == 1
    assert "expected no user, no query" in done.stderr.replace("\n", " ")
    assert "SECRET" not in done.stderr


@pytest.mark.parametrize("source", ["nets.py:network", "nets.py:make", "nets:network", "nets:make"])
def test_a_network_or_a_function_of_a_file_or_a_module_is_exported(
    folder: Path, source: str
) -> None:
    done = run("export", source, "models", cwd=folder)
    assert done.code == 0, done.stderr
    assert load(folder / "models" / "from_file" / "1" / "model.onnx").sizes == (3, 4, 2)


def test_a_file_is_found_by_its_path_with_what_lies_beside_it(folder: Path) -> None:
    assert run("export", folder / "nets.py:network", folder / "n.onnx", cwd=folder.parent).code == 0


@pytest.mark.parametrize(
    ("to", "options", "there"),
    [
        ("x.onnx", (), "x.onnx"),
        ("models", ("--version", "1"), "models/linnerud/1"),
    ],
)
def test_what_is_there_is_replaced_only_if_asked(
    tmp_path: Path, to: str, options: tuple[str, ...], there: str
) -> None:
    command = ("export", "linnerud", to, *options)
    assert run(*command, cwd=tmp_path).code == 0
    done = run(*command, cwd=tmp_path)
    assert done.code == 1
    assert done.error == f"{there} exists already; --overwrite replaces it"
    assert run(*command, "--overwrite", cwd=tmp_path).code == 0


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("breast", ("'breast'", "breast_cancer", "linnerud", "FILE.py:NAME", ".safetensors")),
        ("none.py:network", ("none.py: no such file",)),
        ("no_such_module:network", ("ModuleNotFoundError", "no_such_module")),
        ("nets.py:nothing", ("AttributeError", "'nothing'")),
        ("nets.py:text", ("expected a Network", "got str")),
        ("nets.py:fails", ("nets.py, line 11", "ZeroDivisionError: division by zero")),
        ("nets.py:wide", ("nets.py, line 13", "NetworkError", "layer 'L2'", "got 0")),
        ("broken.py:network", ("SyntaxError", "broken.py, line 1")),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(
    folder: Path, source: str, texts: tuple[str, ...]
) -> None:
    done = run("export", source, "models", cwd=folder)
    assert done.code == 1
    assert all(text in done.error for text in texts), done.error
    assert done.stdout == ""
    assert not (folder / "models").exists()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    np.save(tmp_path / "rows.npy", ZOO["breast_cancer"].held_out().x)
    return tmp_path / "rows.npy"


def test_hidden_activations_become_outputs_where_asked(tmp_path: Path) -> None:
    assert run_here("export", "linnerud", "m.onnx", "--expose", "za", cwd=tmp_path).code == 0
    outputs = [output.name for output in load(tmp_path / "m.onnx").outputs]
    assert outputs[:3] == [output.name for output in ZOO["linnerud"].network().outputs]
    assert {"z_2", "a_2"} <= set(outputs)
    done = run_here("export", "linnerud", "n.onnx", "--expose", "b", cwd=tmp_path)
    assert (done.code, "expected 'a', 'z' or 'za'" in done.error) == (1, True)


def test_int8_reports_its_loss_and_is_written_if_it_is_within_the_limit(rows: Path) -> None:
    folder = rows.parent
    done = run_here(
        "export", "breast_cancer", "models", "--int8", rows, "--max-loss", "0.05", cwd=folder
    )
    assert done.code == 0, done.stderr
    assert "int8, calibrated on rows.npy" in done.stdout
    assert "loss: 0.0" in done.stdout
    model = onnx.load(folder / "models" / "breast_cancer" / "1" / "model.onnx")
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}


def test_int8_calibrates_on_columns_by_their_names(tmp_path: Path) -> None:
    held_out = ZOO["breast_cancer"].held_out().x
    names = ZOO["breast_cancer"].network().input.features
    columns = {name: held_out[:, index] for index, name in enumerate(names)}
    lines = [",".join(reversed(names))]
    lines += [",".join(str(columns[name][row]) for name in reversed(names)) for row in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    command = ("export", "breast_cancer", "m.onnx", "--int8", "rows.csv", "--max-loss", "0.05")
    assert run_here(*command, cwd=tmp_path).code == 0


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--int8", "rows.npy", "--max-loss", "0.0001"), 1, "in int8: expected errors of at most"),
        (("--int8", "rows.npy"), 1, "--max-loss says which loss to accept unasked"),
        (("--int8", "none.npy", "--max-loss", "1"), 1, "none.npy: No such file"),
        (("--int8", "rows.txt", "--max-loss", "1"), 2, "rows.txt: expected rows in a .csv, "),
        (("--max-loss", "0.1"), 2, "--max-loss: only int8 loses anything"),
    ],
)
def test_an_int8_file_that_nobody_accepted_is_not_written(
    rows: Path, options: tuple[str, ...], code: int, text: str
) -> None:
    done = run("export", "breast_cancer", "m.onnx", *options, cwd=rows.parent)
    assert done.code == code
    assert text in done.error
    assert not (rows.parent / "m.onnx").exists()


@pytest.mark.parametrize(("answer", "written"), [("y", True), ("n", False)])
def test_at_a_terminal_the_loss_is_reported_and_then_asked_for(
    rows: Path, answer: str, written: bool
) -> None:
    ours, theirs = os.openpty()
    with started(
        *("export", "breast_cancer", "m.onnx", "--int8", rows.name),
        cwd=rows.parent,
        env=environment(),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.write(ours, f"{answer}\n".encode())
        said, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert said.index("loss: ") < said.index("write it?")
    assert (process.returncode == 0, (rows.parent / "m.onnx").exists()) == (written, written)


def test_a_version_of_a_single_file_is_refused(tmp_path: Path) -> None:
    done = run("export", "linnerud", tmp_path / "x.onnx", "--version", "2")
    assert done.code == 2
    assert "versions belong to a repository" in done.error
    assert list(tmp_path.iterdir()) == []


def test_what_to_overwrite_in_a_repository_has_to_be_said(tmp_path: Path) -> None:
    done = run("export", "linnerud", tmp_path / "models", "--overwrite")
    assert done.code == 2
    assert "say which with --version" in done.error
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    done = run("export", "linnerud", "models", cwd=tmp_path)
    assert (done.code, done.error) == (1, "models/linnerud: Not a directory")


W = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def theirs(path: Path) -> Path:
    """A file of another producer, of two outputs, the second of them one that no Network has."""
    nodes = [
        node("Gemm", "x W", "scores", transB=1),
        node("ArgMax", "scores", "best", axis=1),
    ]
    path.write_bytes(written(nodes, {"W": W}, outputs=["scores", "best"]).SerializeToString())
    return path


def test_an_onnx_file_of_another_producer_is_published_under_its_files_name(tmp_path: Path) -> None:
    done = run_here("export", theirs(tmp_path / "cars.onnx"), "models", "--select", "scores",
               cwd=tmp_path)  # fmt: skip
    assert done.code == 0, done.stderr
    network = load(tmp_path / "models" / "cars" / "1" / "model.onnx")
    assert network.layers[0].W.tobytes() == W.tobytes()
    assert [output.name for output in network.outputs] == ["scores"]


def test_an_onnx_file_of_ours_keeps_its_bytes(tmp_path: Path) -> None:
    assert run("export", "breast_cancer", "first.onnx", cwd=tmp_path).code == 0
    assert run_here("export", "first.onnx", "models", cwd=tmp_path).code == 0
    again = tmp_path / "models" / "breast_cancer" / "1" / "model.onnx"
    assert again.read_bytes() == (tmp_path / "first.onnx").read_bytes()


def test_a_keras_file_is_published_under_the_name_that_is_given(tmp_path: Path) -> None:
    model = sequential(input_layer(3, name="x"), dense("last", units=2))
    weights = {"dense/vars/0": W.T, "dense/vars/1": [0, 0]}
    keras_file(tmp_path / "m.keras", model, weights)
    done = run_here("export", "m.keras", "models", "--name", "cars", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert load(tmp_path / "models/cars/1/model.onnx").layers[0].W.tobytes() == W.tobytes()


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_weights_by_name_take_their_activations_from_an_option(tmp_path: Path, kind: str) -> None:
    state: dict[str, Any] = {"first.weight": W, "second.weight": np.ones((1, 2), np.float32)}
    if kind == "npz":
        np.savez(tmp_path / "w.npz", **state)
    else:
        from safetensors.numpy import save_file

        save_file(state, tmp_path / "w.safetensors")
    options = ("--activations", "tanh,sigmoid", "--layers", "first,second")
    done = run_here("export", f"w.{kind}", "y.onnx", *options, cwd=tmp_path)
    assert done.code == 0, done.stderr
    layers = load(tmp_path / "y.onnx").layers
    assert [(each.name, each.activation) for each in layers] == [
        ("first", "tanh"),
        ("second", "sigmoid"),
    ]
    options = ("--activations", "leaky_relu:0.2,elu:0.5", "--layers", "first,second")
    done = run_here("export", f"w.{kind}", "p.onnx", *options, cwd=tmp_path)
    assert done.code == 0, done.stderr
    layers = load(tmp_path / "p.onnx").layers
    assert [each.activation for each in layers] == [LeakyRelu(0.2), Elu(0.5)]
    for wrong in ("tanh:0.2", "leaky_relu:x", "leaky_relu:inf", "elu:0", "celu"):
        options = ("--activations", f"relu,{wrong}", "--layers", "first,second")
        done = run_here("export", f"w.{kind}", "z.onnx", *options, cwd=tmp_path)
        assert done.code == 2
        assert f"no activation '{wrong}'; expected some of identity, relu" in done.error
    done = run_here("export", f"w.{kind}", "z.onnx", cwd=tmp_path)
    assert done.code == 2
    assert "as in --activations relu,softmax" in done.error
    done = run_here("export", f"w.{kind}", "z.onnx", "--activations", "tanh", "--layers",
               "first,second", cwd=tmp_path)  # fmt: skip
    assert done.code == 1
    assert "one for each of the layers first, second" in done.error


def test_float64_is_rounded_only_if_asked(tmp_path: Path) -> None:
    nodes = [
        node("Cast", "x", "d", to=11),
        node("Gemm", "d W", "e", transB=1),
        node("Cast", "e", "y", to=1),
    ]
    model = written(nodes, {"W": W.astype(np.float64) / 3})
    (tmp_path / "d.onnx").write_bytes(model.SerializeToString())
    done = run_here("export", "d.onnx", "y.onnx", cwd=tmp_path)
    assert done.code == 1
    assert "constant 'W': float64 values" in done.error
    assert run_here("export", "d.onnx", "y.onnx", "--round-float64", cwd=tmp_path).code == 0
    rounded = (W.astype(np.float64) / 3).astype(np.float32)
    assert load(tmp_path / "y.onnx").layers[0].W.tobytes() == rounded.tobytes()


@pytest.mark.parametrize("name", ["m.joblib", "m.pkl", "m.pt", "M.PTH", "m.ckpt", "m.bin"])
def test_no_pickle_is_loaded(tmp_path: Path, name: str) -> None:
    # Loading it would make a file beside it.
    (tmp_path / name).write_bytes(b"cposix\nsystem\n(S'touch loaded'\ntR.")
    done = run_here("export", name, "models", cwd=tmp_path)
    assert done.code == 1
    assert "a pickle, which runs whatever code it holds" in done.error
    assert "export FILE.py:FUNCTION" in done.error
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.onnx"], 1, "none.onnx: No such file or directory"),
        (["none.npz", "--activations", "relu"], 1, "none.npz: No such file or directory"),
        (["none.keras"], 1, "none.keras: No such file or directory"),
        (["cars.onnx"], 1, "node 'ArgMax to best' (ArgMax)"),
        (["cars.onnx"], 1, "outputs that do not need it: scores"),
        (["cars.onnx", "--select", "z"], 1, "expected some of the file's outputs scores, best"),
        (["cars.onnx", "--activations", "relu"], 2, "--activations: for .npz and .safetensors"),
        (["linnerud", "--select", "y"], 2, "--select: for .onnx files, not for linnerud"),
        (["linnerud", "--round-float64"], 2, "--round-float64: for .onnx files"),
        (["cars.onnx", "--select", "scores", "--name", "a/b"], 1, "network name: expected a name"),
    ],
)
def test_what_is_wrong_with_a_file_or_an_option_is_said(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    theirs(tmp_path / "cars.onnx")
    done = run_here("export", *arguments[:1], "models", *arguments[1:], cwd=tmp_path)
    assert done.code == code
    assert message in done.error
    assert not (tmp_path / "models").exists()
