"""Estimators in .skops files; nothing that skops does not trust is loaded."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from forwardpass.cli.networks.files import NO_OPTIONS, read_network
from forwardpass.models import UnsupportedSourceError, from_sklearn
from forwardpass.models.importers.sklearn.skops_files import HARMLESS

skops = pytest.importorskip("skops.io")

FRAME = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0] * 5, "color": ["red", "green"] * 10})
Y = np.array([0, 1, 1, 1] * 5)


def doubled(x):
    print("run")
    return 2 * x


def test_a_file_becomes_the_network_of_its_estimator(tmp_path: Path) -> None:
    columns = make_column_transformer((StandardScaler(), ["size"]), (OneHotEncoder(), ["color"]))
    model = make_pipeline(columns, LogisticRegression()).fit(FRAME, Y)
    skops.dump(model, tmp_path / "m.skops")
    network = from_sklearn(tmp_path / "m.skops")
    assert network == from_sklearn(model)
    assert read_network(tmp_path / "m.skops", NO_OPTIONS).name == "m"
    np.testing.assert_allclose(network(FRAME)["y"][:, 0], model.predict_proba(FRAME)[:, 1], 1e-6)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_a_pipeline_as_people_have_it_needs_no_trust_of_theirs(tmp_path: Path, solver) -> None:
    frame = FRAME.assign(color=["red", None] * 10)
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder())
    columns = make_column_transformer((StandardScaler(), ["size"]), (texts, ["color"]))
    net = MLPClassifier((4,), solver=solver, max_iter=5, random_state=0)
    with warnings.catch_warnings(action="ignore"):
        model = make_pipeline(columns, net).fit(frame, Y)
    assert set(skops.get_untrusted_types(data=skops.dumps(model))) <= set(HARMLESS)
    skops.dump(model, tmp_path / "m.skops")
    assert from_sklearn(tmp_path / "m.skops") == from_sklearn(model)


def test_a_file_with_a_type_that_skops_does_not_trust_is_not_loaded(tmp_path, capsys) -> None:
    model = make_pipeline(FunctionTransformer(doubled), LogisticRegression())
    model.fit(FRAME[["size"]], Y)
    skops.dump(model, tmp_path / "m.skops")
    capsys.readouterr()
    with pytest.raises(UnsupportedSourceError, match=r"not trust: [\w.]*doubled; .*trusted="):
        from_sklearn(tmp_path / "m.skops")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04."])
def test_another_file_of_that_name_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.skops").write_bytes(content)
    with pytest.raises(UnsupportedSourceError, match=r"m.skops': not a file of skops"):
        from_sklearn(tmp_path / "m.skops")
