"""The plots of how well the example networks do."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from sklearn.datasets import load_digits

from forwardpass.models.zoo import ZOO
from forwardpass.models.zoo.training import datasets, train
from forwardpass.models.zoo.training.plots import PLOTS, mosaic, save_plots

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All plots."""
    folder = tmp_path_factory.mktemp("plots")
    for name in PLOTS:
        save_plots(name, ZOO[name].network(), ZOO[name].held_out(), folder)
    return folder


def texts(path: Path) -> list[str]:
    return ["".join(text.itertext()) for text in ET.parse(path).iter(f"{SVG}text")]


def marks(path: Path, parent: str) -> int:
    """Number of things drawn in the groups whose names begin so."""
    groups = [g for g in ET.parse(path).iter(f"{SVG}g") if g.get("id", "").startswith(parent)]
    return sum(len(list(group.iter(f"{SVG}use"))) for group in groups)


def test_the_confusion_matrix_counts_every_patient_once(folder: Path) -> None:
    held_out = ZOO["breast_cancer"].held_out()
    answer = ZOO["breast_cancer"].network()(held_out.x)["malignancy"]
    pairs = list(zip(held_out.truth["malignancy"] == 1, answer > 0.5, strict=True))
    counts = [pairs.count((t, a)) for t in (False, True) for a in (False, True)]
    shown = texts(folder / "breast_cancer_confusion.svg")
    assert [int(text) for text in shown if text.isdigit()] == counts
    assert sum(counts) == 114
    assert {"answer", "truth", "benign", "malignant"} <= set(shown)


def test_the_code_space_has_a_mark_for_each_image(folder: Path) -> None:
    assert marks(folder / "digits_code.svg", "PathCollection") == 360


def test_residuals_have_a_mark_for_each_man_and_answer_and_their_units(folder: Path) -> None:
    path = folder / "linnerud_residuals.svg"
    assert marks(path, "PathCollection") == 3 * 5
    units = {"answer (lb)", "answer (in)", "answer (1/min)"}
    assert units | {f"truth less {unit}" for unit in units} <= set(texts(path))


def test_images_stand_side_by_side_and_line_under_line() -> None:
    first, second = (np.arange(128).reshape(2, 64) + line for line in (1, 1000))
    canvas = mosaic([first, second])
    assert canvas.shape == (17, 17)
    np.testing.assert_array_equal(canvas[:8, :8], first[0].reshape(8, 8))
    np.testing.assert_array_equal(canvas[9:, 9:], second[1].reshape(8, 8))
    assert not canvas[8].any()
    assert not canvas[:, 8].any()


def test_the_classes_of_the_digits_held_out_are_those_of_the_images() -> None:
    bunch = load_digits()
    classes = {
        image.tobytes(): digit for image, digit in zip(bunch.data, bunch.target, strict=True)
    }
    held_out = ZOO["digits_autoencoder"].held_out().x.astype(np.float64)
    known = [classes[image.tobytes()] for image in held_out]
    assert known == datasets.digits().held_out_strata().tolist()
    with pytest.raises(ValueError, match="no classes"):
        datasets.exercises().held_out_strata()


def test_the_same_bytes_come_whatever_the_users_settings(folder: Path, tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 20, "svg.fonttype": "path"}):
        for name in PLOTS:
            save_plots(name, ZOO[name].network(), ZOO[name].held_out(), tmp_path)
        assert matplotlib.rcParams["font.size"] == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        file for files in PLOTS.values() for file in files
    )
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
        assert not re.search(rb"20\d\d-\d\d-\d\d|Matplotlib v", path.read_bytes())


def test_the_program_plots_the_committed_networks_without_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "fit", None)
    monkeypatch.setattr("sys.argv", ["train", "--plots-only", "--plots", str(tmp_path)])
    train.main()
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_program_plots_what_it_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["linnerud", "--out", str(tmp_path), "--plots", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["train", *arguments])
    train.main()
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["linnerud.npz", "linnerud_residuals.svg"]


def test_plots_alone_need_a_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--plots-only"])
    with pytest.raises(SystemExit):
        train.main()
    assert "--plots-only needs --plots" in capsys.readouterr().err
