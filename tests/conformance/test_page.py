"""The page in a real browser: what it shows is the server's, and everybody can use it.

Run with `-s`: the figures are printed.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from benchmarks.networks import NETWORKS
from conformance.browser import (
    BROKEN,
    FOREIGN,
    RANGED,
    browse,
    latest,
    pasted,
    serving,
    write_repository,
)
from numpy.typing import NDArray
from support import onnx_files, served
from support.foreign import node, written
from support.rest import Rest
from support.served import RANKS, echo
from support.wire import DTYPES, raw_bytes

from forwardpass.models import Categorical, Dense, Input, Network, export, expose, publish
from forwardpass.models.rounding import rounding_bound
from forwardpass.models.zoo import ZOO
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token
from forwardpass.server.app import Server

LARGE, IMAGE = "large", "digits_autoencoder"
SEVERAL = "penguins"
"""The example network of several inputs."""
HIDDEN = re.compile(r"^a_(\d+)$")
NETS: Mapping[str, Network] = {
    **{name: example.network() for name, example in ZOO.items() if name != SEVERAL},
    RANGED: latest(),
    LARGE: NETWORKS[LARGE],
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serving(repository) as server:
        yield server


def read(shown: Mapping[str, str], tensor: str) -> NDArray[np.float32]:
    """Return the numbers of a tensor that the page shows by place, such as `x/0`."""
    found = {place: text for place, text in shown.items() if place.rpartition("/")[0] == tensor}
    return np.array([float(found[f"{tensor}/{index}"]) for index in range(len(found))], np.float32)


def answered(server: Server, model: str, row: Sequence[float], version: str = "") -> dict[str, Any]:
    """Return what REST answers for a row, by output, as float32."""
    path = f"/v2/models/{quote(model, safe='')}" + (f"/versions/{version}" if version else "")
    data = {"name": "x", "datatype": "FP32", "shape": [1, len(row)], "data": list(map(float, row))}
    with Rest(server.http_port) as rest:
        outputs = rest.post(f"{path}/infer", {"inputs": [data]}).json["outputs"]
    return {each["name"]: np.array(each["data"], np.float64).astype(np.float32) for each in outputs}


def assert_same_bits(shown: Mapping[str, str], answers: Mapping[str, NDArray[Any]]) -> int:
    """Compare all numbers of the outputs that the page shows; return how many there are."""
    compared = 0
    for name, wanted in answers.items():
        got = read(shown, name)
        if len(got):
            assert raw_bytes(got) == raw_bytes(wanted), name
            compared += len(got)
    return compared


def test_every_view_has_no_fault_in_light_and_dark_wide_and_narrow(server: Server) -> None:
    models = [f"/models/{quote(name, safe='')}" for name in [*NETS, FOREIGN]]
    hashes = ["/", "/operation", *models, f"/models/{RANGED}/versions/1"]
    report = browse(server, "views", hashes=hashes)

    assert report["faults"] == []
    assert len(report["seen"]) == 4 * len(hashes)
    for seen in report["seen"]:
        red, green, blue = map(int, seen["ground"].strip("rgb()").split(","))
        assert (red + green + blue > 600) == (seen["colorScheme"] == "light")
    texts = {seen["hash"]: seen["text"] for seen in report["seen"]}
    assert BROKEN in texts["/"]
    assert "not served" in texts["/"]
    assert FOREIGN in texts["/"]
    assert "<i>a</i>" in texts[models[-1]]
    assert "Breast Cancer Wisconsin" in texts[f"/models/{RANGED}"]


def test_every_number_is_the_servers_to_the_bit_and_the_mathematics_within_its_bound(
    server: Server,
) -> None:
    report = browse(server, "numbers", models=[*NETS, FOREIGN])

    assert report["faults"] == []
    compared = 0
    for seen in report["seen"]:
        shown = seen["all"]
        row = read(shown, "x")
        assert raw_bytes(read(seen["inputs"], "x")) == raw_bytes(row)
        answers = answered(server, seen["name"], row.tolist())
        assert sum(map(len, answers.values())) == assert_same_bits(shown, answers)
        compared += assert_same_bits(seen["bars"], answers)
        if seen["name"] in NETS:
            network = expose(NETS[seen["name"]], "a")
            bounds = rounding_bound(network, row)
            for name, exact in network(row).items():
                # Hidden activations have other names in the graph: a2, not a_2.
                got = read(shown, HIDDEN.sub(r"a\1", name))
                assert (np.abs(got - exact) <= bounds[name]).all(), (seen["name"], name)
    assert {seen["name"] for seen in report["seen"]} == {*NETS, FOREIGN}
    assert compared > 100


def test_a_model_of_any_inputs_shows_an_answer_or_why_there_is_none(tmp_path: Path) -> None:
    models = [echo(datatype, 2) for datatype in DTYPES]
    models += [echo(datatype, rank) for datatype in ("FP32", "BYTES") for rank in RANKS]
    models += ["pair", "constant", "fixed", "broad"]
    # As many numbers as a run may have.
    broad = written([node("MatMul", "x W", "y")], {"W": np.ones((1, 2**17), np.float32)}, width=1)
    root = served.write_repository(tmp_path)
    onnx_files.save(broad, root / "broad" / "1" / "model.onnx")
    with serving(root, general=True) as server:
        report = browse(server, "kinds", models=models, refused="400")

    assert report["faults"] == []
    unanswered = {name: seen["notices"] for name, seen in report["seen"].items() if seen["notices"]}
    # FP16 has no JSON; a model without an axis of rows takes two, and one was sent.
    assert set(unanswered) == {"echo_fp16_2", "fixed"}
    for name in report["seen"].keys() - unanswered.keys() - {"pair", "constant"}:
        shown = report["seen"][name]["all"]
        assert shown["x/0"] == shown["y/0"] == ("true" if "bool" in name else "1"), name
    assert read(report["seen"]["pair"]["all"], "total").tolist() == [2, 2]
    assert len(report["seen"]["broad"]["bars"]) == 24


def test_keys_alone_lead_from_the_start_to_another_answer(server: Server) -> None:
    report = browse(server, "keyboard", model=RANGED, image=IMAGE)

    assert report["faults"] == []
    assert [stop for stop in report["stops"] if not stop["outlined"] or not stop["name"]] == []
    assert report["heading"]["name"] == RANGED
    row = read(report["after"]["inputs"], "x")
    assert raw_bytes(row) != raw_bytes(read(report["before"]["inputs"], "x"))
    assert assert_same_bits(report["after"]["bars"], answered(server, RANGED, row.tolist()))
    # Two pixels that were drawn, below one another's neighbor: (1, 1) and (1, 2).
    assert report["board"] == 1
    assert "row 2, column 3" in report["said"]
    blank, drawn = (read(report[each]["inputs"], "x") for each in ("blank", "drawn"))
    assert np.flatnonzero(blank != drawn).tolist() == [9, 10]
    assert assert_same_bits(report["drawn"]["bars"], answered(server, IMAGE, drawn.tolist()))


def test_a_digit_drawn_with_a_few_strokes_of_the_pointer_is_known(tmp_path: Path) -> None:
    strokes = {
        "0": [(14, 5), (9, 9), (8, 15), (11, 21), (15, 22), (19, 18), (20, 11), (17, 6), (14, 5)],
        "1": [(15, 5), (13, 23)],
        "2": [(9, 9), (13, 5), (18, 8), (17, 13), (9, 22), (20, 22)],
        "3": [(9, 7), (14, 5), (18, 8), (17, 12), (12, 13), (17, 14), (19, 18), (15, 22), (9, 20)],
        "7": [(8, 7), (19, 7), (12, 23)],
    }
    publish(ZOO["mnist_digits"].network(), tmp_path)
    with serving(tmp_path) as server:
        report = browse(server, "draw", model="mnist_digits", strokes=strokes, width=28)

    assert report["faults"] == []
    answers = {name: read(bars, "digit") for name, bars in report["seen"].items()}
    assert {name: str(answer.argmax()) for name, answer in answers.items()} == {
        name: name for name in strokes
    }


def test_sixty_changes_a_second_have_one_run_in_flight_and_the_last_one_is_answered(
    server: Server,
) -> None:
    report = browse(server, "speed", model=LARGE)

    times = np.array(report["ms"])
    print(
        f"\n{180 / report['seconds']:.0f} changes a second, {len(times)} answers: "
        f"p50 {np.median(times):.1f} ms, p99 {np.quantile(times, 0.99):.1f} ms, "
        f"most {times.max():.1f} ms until they were shown"
    )
    assert report["faults"] == []
    assert report["most"] == 1
    assert sorted(report["found"]) == sorted(["x[77]", *(f"x[77{digit}]" for digit in range(10))])
    row = read(report["inputs"], "x")
    assert_same_bits(report["bars"], answered(server, LARGE, row.tolist()))
    assert len(row) == NETWORKS[LARGE].input.size


def test_rows_are_pinned_and_pasted_compared_between_versions_and_taken_elsewhere(
    server: Server, tmp_path: Path
) -> None:
    network, x = NETS[RANGED], ZOO[RANGED].held_out().x.astype(np.float32)
    features = list(reversed(network.input.features))
    beyond = x[5].copy()
    beyond[0] = 1000
    pastes = [
        pasted(x[3]),
        "\n".join([";".join(features), *(";".join(map(repr, r.tolist()[::-1])) for r in x[:2])]),
        str(beyond.tolist()),
        "1, 2, 3",
    ]
    answered(server, RANGED, beyond.tolist())
    report = browse(server, "work", model=RANGED, pastes=pastes)

    assert report["faults"] == []
    wanted = [x[3], x[0], beyond, beyond]
    for paste, row in zip(report["pastes"], wanted, strict=True):
        assert raw_bytes(read(paste["inputs"], "x")) == raw_bytes(row)
        assert assert_same_bits(paste["bars"], answered(server, RANGED, row.tolist()))
    assert report["pastes"][3]["said"] == "3 values came, and the model takes 30"
    assert any("above" in note and "highest" in note for note in report["outside"])
    assert all("from the pinned row" in note for note in report["notes"])

    drift = report["card"].split("Features of x out of range")[1]
    assert "mean radius" in drift
    answers = [answered(server, RANGED, beyond.tolist(), version) for version in ("", "1")]
    numbers = [np.concatenate([*each.values()]) for each in answers]
    rows = [row for row in report["comparison"] if "verdict" not in row[0]]
    for column, exact in ((1, numbers[0]), (2, numbers[1])):
        assert raw_bytes(np.array([float(row[column]) for row in rows], np.float32)) == raw_bytes(
            exact
        )
    assert any(row[3] not in ("same", "0") for row in rows)

    assert report["copied"] in ("copied", "selected: copy it with the keyboard")
    assert report["hiddenPolls"] == 0
    assert raw_bytes(read(report["back"]["inputs"], "x")) != raw_bytes(beyond)
    programs = report["programs"]
    assert '"fp32_contents"' in programs["grpcurl"]
    assert f":{server.port} inference" in programs["grpcurl"]
    python = programs["Python"].replace(
        "print(dict(prediction))", "print(prediction['worst'][0].tolist())"
    )
    last = answers[0]["worst"].tolist()
    assert run(tmp_path, sys.executable, "-c", python) == f"{last}\n"
    (tmp_path / "call.mjs").write_text(programs["JavaScript"])
    for command in (("node", "call.mjs"), ("bash", "-c", programs["curl"])):
        said = run(tmp_path, *command)
        assert "malignancy" in said, said


def test_another_version_is_shown_when_it_comes_with_the_row_that_is_there(tmp_path: Path) -> None:
    repository, source = tmp_path / "repository", tmp_path / "another.onnx"
    publish(Network.chain([3, 4, 2], name="small"), repository)
    export(Network.chain([3, 5, 2], name="small", seed=1), source)
    new = repository / "small" / "2"
    # Appears whole, as everything that is published.
    program = f"import os; os.rename({str(tmp_path / 'new')!r}, {str(new)!r})"
    (tmp_path / "new").mkdir()
    source.rename(tmp_path / "new" / "model.onnx")
    with serving(repository) as server:
        command = [sys.executable, "-c", program]
        report = browse(server, "swap", model="small", number="0.25", command=command)
        row = read(report["after"]["inputs"], "x")
        assert assert_same_bits(report["after"]["bars"], answered(server, "small", row.tolist()))

    assert report["faults"] == []
    assert row[0] == 0.25
    assert report["before"]["inputs"] == report["after"]["inputs"]
    assert report["before"]["bars"] != report["after"]["bars"]


def test_a_server_that_was_busy_is_asked_again(server: Server) -> None:
    report = browse(server, "busy", model=RANGED, refused="503")

    assert report["faults"] == []
    assert report["said"] == "busy"
    assert report["bars"]


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_token_is_asked_for_kept_in_memory_and_shows_what_its_caller_may_read(
    repository: Path, tmp_path: Path
) -> None:
    made = new_token("ward-7", ["linnerud"], [Action.INFER, Action.READ])
    tokens = tmp_path / "tokens.jsonl"
    tokens.write_text(f"{made.line}\n")
    tokens.chmod(0o600)
    with serving(repository, tokens) as server:
        report = browse(server, "tokens", token=made.token, refused="401")

    assert report["faults"] == []
    assert report["cards"] == ["linnerud"]
    assert report["kept"][:3] == [0, 0, ""]
    assert made.token not in report["kept"][3]
    assert made.token not in report["program"]
    assert "token=" in report["program"]
    assert report["after"] == 0


def test_no_module_of_the_page_writes_html(server: Server) -> None:
    with Rest(server.http_port) as rest:
        page = rest.get("/")
    assert page.status == 200
    policy = page.fields["content-security-policy"]
    assert "'unsafe-inline'" not in policy
    assert "script-src 'self'" in policy
    root = Path(sys.modules["forwardpass.server"].__path__[0], "rpc", "page", "assets")
    modules = sorted(root.glob("*.js"))
    assert len(modules) > 5
    for module in modules:
        text = module.read_text()
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert way not in text, (module.name, way)


def test_zero_keeps_its_sign_wherever_a_row_is_sent(tmp_path: Path) -> None:
    root = Path(sys.modules["forwardpass.server"].__path__[0], "rpc", "page", "assets")
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "zeros.js").write_text(
        """
import { read } from "./fields.js";
import { written } from "./numbers.js";
import { snippets } from "./snippets.js";
const input = { name: "x", datatype: "FP32" };
const inputs = [{ input, axes: [2] }];
const model = { name: "m", version: null, inputs, values: { x: [-0, 0.5] } };
const made = snippets(model, { host: "h", origin: "http://h", tls: false, secret: false });
const odd = { 'a"': [[-0, 1, "NaN", null], [], true], __proto__: 1, ["__proto__"]: {} };
console.log(JSON.stringify({ made, written: written(odd), read: written(read("-0", "INT64")) }));
"""
    )
    command = ["node", str(tmp_path / "zeros.js")]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    assert found["written"] == '{"a\\"":[[-0.0,1,"NaN",null],[],true],"__proto__":{}}'
    assert found["read"] == '{"value":0}'
    for language, program in found["made"].items():
        assert "-0.0" in program, language


def test_categories_are_a_list_and_what_is_filled_in_may_be_empty(tmp_path: Path) -> None:
    inputs: list[Input | Categorical] = [
        Input(2, features=("age", "income"), fill={"age": 38}),
        Categorical("purpose", ("car", "house")),
        Categorical("rooms", (1, 2), unknown="zeros"),
        Categorical("region", ("north", "south"), missing="south"),
    ]
    network = Network.define(inputs, [Dense("h", 4), Dense("y", 1, "sigmoid")], name="loans")
    publish(network, tmp_path)
    chromium = shutil.which("chromium")
    assert chromium is not None, "apt-get install chromium"
    with serving(tmp_path) as server:
        address = f"http://127.0.0.1:{server.http_port}/#/models/loans"
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000")
        done = subprocess.run(
            [chromium, *options, "--dump-dom", address], capture_output=True, text=True, timeout=60
        )
    lists = dict(re.findall(r'<select [^>]*data-place="(\w+)/0"[^>]*>(.*?)</select>', done.stdout))
    shown = {name: re.findall(r">([^<]+)</option>", options) for name, options in lists.items()}
    assert shown == {
        "purpose": ["car", "house"],
        "rooms": ["1", "2"],
        "region": ["north", "south", "missing"],
    }
    assert re.findall(r'placeholder="(missing: [^"]*)"', done.stdout) == ["missing: 38"]
    (answer,) = re.findall(r'data-value="([^"]*)" data-place="y/0"', done.stdout)
    row = {"age": 0, "income": 0, "purpose": "car", "rooms": 1, "region": "north"}
    assert float(answer) == pytest.approx(float(network(row)["y"][0]), abs=1e-6)
