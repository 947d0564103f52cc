"""The model card: what the author gave and what the file shows, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from markdown_it import MarkdownIt
from support import onnx_files

from forwardpass.models import (
    Categorical,
    Dense,
    Input,
    Network,
    Output,
    UnsupportedModelError,
    calibrate,
    card,
    export,
    load,
    merge,
    quantize,
    to_onnx,
)
from forwardpass.models.file.describe import describe
from forwardpass.proto import metadata


def cars() -> Network:
    return Network.define(
        Input(2, features=("length", "mass"), units=("m", ""), low=[3, 700], high=[5, 2500.5]),
        [Dense("price", 1, "identity"), Dense("kind", 1, "sigmoid", reads="x")],
        [
            Output("price", "price", units=("EUR",), description="of a used car"),
            Output("kind", "kind", labels=("new", "used"), thresholds=(0.25,)),
        ],
        name="cars",
        provenance={
            "intended use": "a first guess",
            "Data": "200 cars of 2024",
            "held-out price": "R2 0.9",
            "training": "10 steps",
        },
    )


def sections(text: str) -> dict[str, str]:
    """The text below each heading of the second and third level, by the heading's words."""
    found: dict[str, str] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
            found[heading] = ""
        else:
            found[heading] += line + "\n"
    return {key: part.strip() for key, part in found.items()}


def test_it_has_what_the_author_gave_and_what_the_file_shows(tmp_path: Path) -> None:
    proof = export(cars(), tmp_path / "cars.onnx")
    text = card(tmp_path / "cars.onnx")
    assert text.startswith("# cars\n")
    found = sections(text)
    assert found["Intended use"] == "a first guess"
    assert found["Data"] == "200 cars of 2024"
    assert found["Figures"] == "held-out price: R2 0.9"
    assert found["Limits"] == "not given"
    assert found["Provenance"] == "- training: 10 steps"
    assert found["x"].splitlines() == [
        "FLOAT (batch, 2)",
        "",
        "| column | feature | unit | least | greatest |",
        "| --- | --- | --- | --- | --- |",
        "| 0 | length | m | 3 | 5 |",
        "| 1 | mass |  | 700 | 2500.5 |",
    ]
    assert "of a used car" in found["price"]
    assert "| 0 | EUR |" in found["price"]
    assert "names of columns, thresholds: not given" in found["price"]
    assert "description: not given" in found["kind"]
    assert "otherwise: new" in found["kind"]
    assert "| 0 | used | 0.25 |" in found["kind"]
    size = (tmp_path / "cars.onnx").stat().st_size
    assert f"- size: {size:,} bytes, 6 numbers in constants" in found["File"]
    assert "- format: ONNX, opset 17, IR 8" in found["File"]
    samples = metadata.Samples.load(
        {prop.key: prop.value for prop in onnx.load(tmp_path / "cars.onnx").metadata_props}[
            metadata.SAMPLES
        ]
    )
    assert f"price {samples.tolerance['price']:.3g}" in found["File"]
    assert samples.tolerance["price"] > 0
    assert proof.rows


def test_a_file_its_bytes_and_its_network_have_one_card(tmp_path: Path) -> None:
    export(cars(), tmp_path / "cars.onnx")
    text = card(tmp_path / "cars.onnx")
    assert card((tmp_path / "cars.onnx").read_bytes()) == text
    assert card(str(tmp_path / "cars.onnx")) == text
    assert card(onnx.load(tmp_path / "cars.onnx")) == text
    assert card(load(tmp_path / "cars.onnx")) == card(cars()) == card(to_onnx(cars())) == text


def test_of_a_file_that_says_nothing_nothing_is_made_up() -> None:
    text = card(onnx_files.linear())
    found = sections(text)
    for part in ("Intended use", "Limits", "Data", "Figures", "Provenance"):
        assert found[part] == "not given"
    assert "names of columns, units, range of the training data: not given" in found["x"]
    assert "description: not given" in found["y"]
    assert "- proof: rows with their answers: not given" in found["File"]


def test_every_kind_of_file_has_a_card() -> None:
    files = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data").rglob("*.onnx"))
    assert len(files) > 100
    for file in files[::3]:
        found = sections(card(file))
        assert {"Intended use", "Inputs", "Outputs", "File"} <= found.keys(), file
    unknown = onnx_files.linear()
    unknown.graph.input[0].type.tensor_type.elem_type = 99
    assert "type 99 (" in sections(card(unknown))["x"]


def test_the_author_of_any_file_can_add_the_parts() -> None:
    model = describe(onnx_files.linear(), provenance={"limits": "adults alone", "data": "b"})
    model = describe(model, provenance={"data": "c"})
    found = sections(card(model))
    assert (found["Limits"], found["Data"]) == ("adults alone", "c")


def test_parts_of_merged_networks_are_told_apart() -> None:
    both = merge({"a": cars(), "b": cars()})
    found = sections(card(both))
    assert found["Intended use"] == "a: a first guess\n\nb: a first guess"
    assert found["Figures"] == "a: held-out price: R2 0.9\n\nb: held-out price: R2 0.9"


def test_figures_of_a_calibration_and_the_loss_of_int8_are_in_it() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 2)).astype(np.float32), np.arange(40) % 3
    network = Network.define(Input(2), [Dense("kind", 3, "softmax")])
    found = sections(card(calibrate(network, x, y)))
    assert found["Figures"] == "kind: calibration, held-out rows: none given"
    assert "- kind: calibration, fitted rows: 40 rows: log loss" in found["Provenance"]
    assert "- int8: " in sections(card(quantize(network, x, max_loss=1.0)))["Provenance"]


def test_categories_and_fills_are_shown() -> None:
    network = Network.define(
        [
            Input(2, "u", features=("a", "b"), fill=[0.5, np.nan]),
            Categorical("city", ("Bern", "Rom"), unknown="zeros", missing="Rom"),
        ],
        [Dense("y", 1, "identity")],
    )
    found = sections(card(network))
    assert "| 0 | a | 0.5 |" in found["u"]
    assert "| 1 | b |  |" in found["u"]
    assert found["city"].splitlines()[2:] == [
        "- categories: Bern, Rom",
        "- any other: none of them",
        "- a missing value: as Rom",
    ]


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "[click](javascript:alert) ![x](y)",
        "# heading",
        "1. one",
        "- item",
        "> quote",
        "**bold** _also_ __so__ `code`",
        "a | b | c",
        "back\\slash \\*",
        "~~~",
        "===",
        "snake_case_name stays",
    ],
)
def test_texts_of_strangers_are_shown_as_they_are(hostile) -> None:
    network = Network.chain(
        [1, 1],
        input=Input(1, features=(hostile,)),
        provenance={"limits": hostile, "other": hostile},
    )
    text = card(network)
    tokens = MarkdownIt().enable("table").parse(text)
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_block", "fence", "code_block", "blockquote_open", "hr"}
    inline = [token for token in tokens if token.type == "inline"]
    children = {child.type for token in inline for child in token.children or []}
    assert children <= {"text", "softbreak", "text_special"}

    def shown(token: Any) -> str:
        return "".join(child.content for child in token.children)

    texts = [shown(token) for token in inline]
    assert hostile in texts  # a paragraph, and the cell of a table
    assert texts.count(hostile) == 2
    assert f"other: {hostile}" in texts


def test_control_characters_and_lines_become_spaces() -> None:
    network = Network.chain([1, 1], provenance={"limits": "a\n\n## b\x1b[31m c\u202ed"})
    assert sections(card(network))["Limits"] == "a ## b \\[31m c d"


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="an empty file"):
        card(b"")
