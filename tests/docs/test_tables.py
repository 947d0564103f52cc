"""The tables of the documentation say what the code says."""

import re
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import typer

from forwardpass import client
from forwardpass.cli.app import app
from forwardpass.client.errors import ERRORS
from forwardpass.models import ACTIVATIONS, INITIALIZERS
from forwardpass.models.importers.onnx.graph import OPERATORS
from forwardpass.models.initializers import DEFAULT_INITIALIZER
from forwardpass.models.zoo import ZOO
from forwardpass.proto import metadata
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.server import Config
from forwardpass.server.errors import STATUS
from forwardpass.server.settings import options

DOCS = Path(__file__).parents[2] / "docs"


def table(page: str, heading: str) -> list[list[str]]:
    """The rows below the first table heading that begins with `heading`, without backticks."""
    lines = (DOCS / page).read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {heading}"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return rows


def test_every_setting_is_documented_with_its_variable_its_default_and_its_text() -> None:
    expected = []
    for option in options(Config):
        needed = option.default is MISSING
        flag = "PATH" if needed else "--" + option.name.replace("_", "-")
        default = "" if needed else _written(option.default)
        text = option.setting.text.replace("`", "")
        expected.append([flag, option.variable, default, text])
    shown = [[_unlinked(cell) for cell in row] for row in table("serving.md", "flag")]
    assert shown == expected


def _unlinked(cell: str) -> str:
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cell)


def test_every_command_and_flag_is_documented_in_the_section_of_its_command() -> None:
    page = (DOCS / "cli.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    group: Any = typer.main.get_command(app)
    commands = group.commands
    assert list(sections) == list(commands)
    for name, command in commands.items():
        shown = set(re.findall(r"`(-[\w-]+)`", sections[name]))
        flags = {
            flag
            for option in command.get_params(typer.Context(command))
            for flag in (*option.opts, *option.secondary_opts)
            if flag.startswith("-") and option.name != "help"
        }
        assert shown - {"-"} == flags, name


def _written(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return "" if default is None else str(default)


def test_the_example_networks_stand_with_their_figures() -> None:
    expected = []
    for name, example in ZOO.items():
        network = example.network()
        sizes = "-".join(map(str, network.sizes))
        stated = network.provenance.items()
        texts = sorted(
            (key.removeprefix("held-out "), text)
            for key, text in stated
            if key.startswith("held-out ")
        )
        summary = ", ".join(f"{output}: {_short(text)}" for output, text in texts)
        expected.append([name, sizes, str(network.parameter_count), summary])
    assert table("networks.md", "network") == expected


def _short(figure: str) -> str:
    single = re.match(r"(accuracy|mean return) [\d.]+", figure)
    if single:
        return single[0]
    r2 = sorted(re.findall(r"R2 (-?[\d.]+)", figure), key=float)
    return f"R2 {r2[0]}" if len(r2) == 1 else f"R2 {r2[0]} to {r2[-1]}"


def test_every_activation_and_initializer_is_documented() -> None:
    rows = table("networks.md", "name")
    assert [row[0] for row in rows] == list(ACTIVATIONS)
    for name, _, where in rows:
        assert (where == "any layer") == (not ACTIVATIONS[name].outputs_only)
    rows = table("networks.md", "`init`")
    assert [row[0] for row in rows] == list(INITIALIZERS)
    for name, distribution, _, default_of in rows:
        assert (distribution == "normal") == INITIALIZERS[name].normal
        fitting = [key for key, init in DEFAULT_INITIALIZER.items() if init == name]
        assert sorted(filter(None, default_of.split(", "))) == sorted(fitting)


def test_every_operator_that_is_read_from_onnx_is_documented() -> None:
    shown = [name for row in table("importers.md", "operator") for name in row[0].split(", ")]
    assert sorted(shown) == sorted(OPERATORS)


def test_every_error_of_the_client_is_documented_with_its_status_codes() -> None:
    shown = {}
    for name, codes, _ in table("client.md", "error"):
        shown[name.split(",")[0]] = set(filter(None, codes.split(", ")))
    errors = {
        name: {code.name for code, error in ERRORS.items() if error.__name__ == name}
        for name in client.__all__
        if name.endswith("Error") and name != "ClientError"
    }
    assert shown == errors


def test_every_status_that_the_server_answers_is_documented() -> None:
    shown = {row[0] for row in table("protocol.md", "status") if row[0]}
    assert {status.name for status in STATUS.values()} <= shown


def test_every_datatype_is_documented_with_its_field() -> None:
    shown = {}
    for names, sizes, field in table("protocol.md", "datatype"):
        for index, name in enumerate(names.split(", ")):
            size = sizes.split(", ")[index] if len(sizes) < 10 else ""
            shown[name] = (size, "" if field == "raw only" else field)
    assert shown == {
        name: (
            "" if name == "BYTES" else str(datatype.dtype.itemsize),
            datatype.contents_field or "",
        )
        for name, datatype in DATATYPES.items()
    }


def test_every_key_of_the_file_contract_is_documented() -> None:
    keys = {
        value
        for name, value in vars(metadata).items()
        if name.isupper() and isinstance(value, str) and value.startswith(metadata.PREFIX)
    }
    assert {row[0] for row in table("file.md", "key")} == keys - {metadata.PREFIX}
