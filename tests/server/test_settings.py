"""What is written of a setting beside its field, and what is made of it."""

import re
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import pytest

from forwardpass.server import Config, Limits, Transport, VersionPolicy
from forwardpass.server.settings import Setting, build, check, options


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: Annotated[int, Setting("Depth.", least=1, name="inner_depth")] = 3
    width: Annotated[int, Setting("Width.", least=1, offered=False)] = 4

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Outer:
    place: Annotated[Path, Setting("Place.")]
    inner: Inner = field(default_factory=Inner)
    wait_s: Annotated[float | None, Setting("Wait.", unit="seconds", above=0)] = None
    share: Annotated[float, Setting("Share.", least=0.0, most=1.0)] = 0.5
    size: Annotated[int, Setting("Size.", unit="bytes", least=10)] = 10
    kind: Annotated[str, Setting("Kind.", choices=("a", "b"))] = "a"
    number: Annotated[int, Setting("Number.", parse=int)] = 7

    def __post_init__(self) -> None:
        check(self)


def test_options_are_flat_in_order_with_their_names_and_defaults() -> None:
    assert [(each.name, each.variable, each.default) for each in options(Outer)] == [
        ("place", "FORWARDPASS_PLACE", MISSING),
        ("inner_depth", "FORWARDPASS_INNER_DEPTH", 3),
        ("wait_s", "FORWARDPASS_WAIT_S", None),
        ("share", "FORWARDPASS_SHARE", 0.5),
        ("size", "FORWARDPASS_SIZE", 10),
        ("kind", "FORWARDPASS_KIND", "a"),
        ("number", "FORWARDPASS_NUMBER", 7),
    ]


def test_settings_are_built_of_options_by_name() -> None:
    assert build(Outer, {"place": Path("here")}) == Outer(place=Path("here"))
    given = {"place": Path("x"), "inner_depth": 5, "width": 9, "wait_s": 0.5, "number": "8"}
    assert build(Outer, given) == Outer(place=Path("x"), inner=Inner(depth=5), wait_s=0.5, number=8)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"wait_s": 0.0}, "wait_s: expected more than 0 seconds, got 0.0"),
        ({"wait_s": float("nan")}, "wait_s: expected more than 0 seconds, got nan"),
        ({"share": 1.5}, "share: expected 0.0..1.0, got 1.5"),
        ({"size": 9}, "size: expected at least 10 bytes, got 9"),
        ({"kind": "c"}, "kind: expected a or b, got 'c'"),
        ({"inner_depth": 0}, "depth: expected at least 1, got 0"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        build(Outer, {"place": Path(), **settings})


def test_a_value_of_none_is_no_number_unless_it_may_be_left_out() -> None:
    assert Outer(place=Path(), wait_s=None).wait_s is None
    with pytest.raises(TypeError):
        Outer(place=Path(), size=None)  # type: ignore[arg-type]


def test_every_setting_of_a_server_has_a_text_by_the_rules() -> None:
    for option in options(Config):
        text = option.setting.text
        assert text.endswith("."), option.name
        if option.kind is bool:
            assert text.startswith("Whether "), option.name
        if option.name.startswith("max_"):
            assert text.startswith("Maximum "), option.name
        for suffix, unit in (("_s", "seconds"), ("_bytes", "bytes")):
            if option.name.endswith(suffix):
                assert unit in text.lower(), option.name
                assert option.setting.unit == unit, option.name


def test_every_field_of_a_server_is_a_setting_once() -> None:
    names = [option.name for option in options(Config)]
    assert len(names) == len(set(names))
    # The group stands for three of its settings: the others are for programs. `store` is found out.
    assert len(names) == len(fields(Config)) - 1 + 3 - 1


def test_a_server_is_set_by_texts_where_no_command_line_knows_the_type() -> None:
    given = {
        "models": Path("m"),
        "versions": "latest:2",
        "transport": "asyncio",
        "general_models": True,
        "max_model_bytes": 2048,
    }
    assert build(Config, given) == Config(
        models=Path("m"),
        versions=VersionPolicy(latest=2),
        transport=Transport.ASYNCIO,
        limits=Limits(general=True, max_file_bytes=2048),
    )
