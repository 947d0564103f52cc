"""What holds for every package of ours: faces that are exact, and imports without a cycle."""

import ast
import importlib
import inspect
import sys
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, get_type_hints

import grimp
import pytest

from forwardpass.client import AsyncClient, Client, Prediction
from forwardpass.client._grpc import async_client

ROOT = Path(__file__).parents[1]
PORTIONS = ["proto", "models", "server", "client", "cli"]


def modules_with_all() -> Iterator[str]:
    for portion in PORTIONS:
        for path in sorted((ROOT / portion / "forwardpass").rglob("*.py")):
            if "\n__all__ = " in path.read_text():
                parts = path.relative_to(ROOT / portion).with_suffix("").parts
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


WITH_ALL = list(modules_with_all())


def test_the_faces_are_found() -> None:
    assert {"forwardpass.models", "forwardpass.client", "forwardpass.cli.rows"} <= set(WITH_ALL)


@pytest.mark.parametrize("name", WITH_ALL)
def test_all_is_exact(name: str) -> None:
    """That it is sorted is ruff's to see (RUF022)."""
    module = importlib.import_module(name)
    listed = module.__all__
    assert len(set(listed)) == len(listed)
    assert [each for each in listed if not hasattr(module, each)] == []
    assert module.__file__ is not None
    file = Path(module.__file__)
    own, imported = public_names(file, name)
    if file.name == "__init__.py":
        assert own | imported == set(listed)
    else:
        # A module may hand on what it imports, and need not.
        assert own <= set(listed) <= own | imported


def public_names(file: Path, module: str) -> tuple[set[str], set[str]]:
    """The names that a module defines, and those that it imports: a package, from its own parts.

    Read from its text, with what it imports for its types alone: what is imported late is there.
    """
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    own: set[str] = set()
    imported: set[str] = set()
    body = list(ast.parse(file.read_text()).body)
    for node in body:
        match node:
            case ast.If(test=ast.Name("TYPE_CHECKING")):
                body.extend(node.body)
            case ast.ImportFrom(module=str(source)) if (
                source.startswith(f"{package}.") or file.name != "__init__.py"
            ):
                imported |= {alias.asname or alias.name for alias in node.names}
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                own.add(node.name)
            case ast.Assign():
                own |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(name)):
                own.add(name)
    return {name for name in own if name[0] != "_"}, {name for name in imported if name[0] != "_"}


# Client and AsyncClient


def method_names(client: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(client, inspect.isfunction) if name[0] != "_"}


def types(client: type, name: str) -> dict[str, Any]:
    """The types of a method's parameters and of what it returns, by name.

    `Client` postpones those that it imports for its types alone: the other module has them all.
    """
    method = getattr(client, name)
    names = vars(async_client) | vars(sys.modules[method.__module__])
    return get_type_hints(method, names)


METHODS = sorted(method_names(Client))
WIDER = {
    # gRPC's interceptors are other classes for asyncio.
    ("__init__", "interceptors"),
    # Rows may come from an asynchronous iterable there, and answers do.
    ("predict_stream", "xs"),
    ("predict_stream", "return"),
}


def test_both_clients_have_the_same_methods() -> None:
    assert method_names(Client) == method_names(AsyncClient)
    assert "predict" in METHODS


@pytest.mark.parametrize("name", ["__init__", *METHODS])
def test_a_method_of_both_clients_takes_and_returns_the_same(name: str) -> None:
    ours, theirs = (
        [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(getattr(client, name)).parameters.values()
        ]
        for client in (Client, AsyncClient)
    )
    assert ours == theirs
    ours_typed, theirs_typed = types(Client, name), types(AsyncClient, name)
    different = {each for each in theirs_typed if ours_typed.get(each) != theirs_typed[each]}
    assert ours_typed.keys() == theirs_typed.keys()
    assert {(name, each) for each in different} == {pair for pair in WIDER if pair[0] == name}


@pytest.mark.parametrize("name", METHODS)
def test_one_client_blocks_and_the_other_awaits(name: str) -> None:
    ours, theirs = getattr(Client, name), getattr(AsyncClient, name)
    assert not inspect.iscoroutinefunction(ours)
    if name == "predict_stream":
        assert types(Client, name)["return"] == Generator[Prediction, None, None]
        assert types(AsyncClient, name)["return"] == AsyncGenerator[Prediction, None]
    else:
        assert inspect.iscoroutinefunction(theirs)


# Imports

MAY_CLOSE_A_CYCLE = {
    # A type alone: a network is what `forward` computes, and computes itself by it when called.
    ("forwardpass.models.explanation", "forwardpass.models.network"),
    ("forwardpass.models.forward", "forwardpass.models.network"),
    ("forwardpass.models.feeds", "forwardpass.models.network"),
    # A type alone: any function may follow a BatchNorm, and where none may be one, that is said.
    ("forwardpass.models.normalization", "forwardpass.models.activations"),
    # Inside `Network.to_svg`: a network can be drawn, and needs no picture to be one.
    ("forwardpass.models.network", "forwardpass.models.picture.svg"),
}


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Every module of ours -> what it imports of ours, for its types alone or late included."""
    graph = grimp.build_graph(
        *(f"forwardpass.{portion}" for portion in [*PORTIONS, "batch"]),
        exclude_type_checking_imports=False,
        cache_dir=None,
    )
    return {name: set(graph.find_modules_directly_imported_by(name)) for name in graph.modules}


def cycle(imports: Mapping[str, set[str]], but: Set[tuple[str, str]]) -> list[str]:
    """The modules of a cycle of imports, empty if there is none, with some imports left out."""
    kept = {
        name: {each for each in imported if (name, each) not in but}
        for name, imported in imports.items()
    }
    try:
        TopologicalSorter(kept).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_imports_go_round_but_those_that_are_listed(imports: dict[str, set[str]]) -> None:
    assert len(imports) > 200
    assert cycle(imports, but=MAY_CLOSE_A_CYCLE) == []


@pytest.mark.parametrize("listed", sorted(MAY_CLOSE_A_CYCLE), ids=str)
def test_an_import_that_is_listed_closes_a_cycle(
    imports: dict[str, set[str]], listed: tuple[str, str]
) -> None:
    assert set(listed) <= set(cycle(imports, but=MAY_CLOSE_A_CYCLE - {listed}))
