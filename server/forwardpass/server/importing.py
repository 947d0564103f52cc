"""Imports of a module without its package, where what the package imports takes long."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import ClassVar


def import_alone(name: str) -> ModuleType:
    """Return a module of a top-level package, such as `onnx.onnx_ml_pb2`, importing it alone.

    It must import nothing of its package. Should the package be imported later, it finds the
    module, uses it, and has it as an attribute. Raises ImportError.
    """
    if name in sys.modules:
        return sys.modules[name]
    package = name.rpartition(".")[0]
    found = None if package in sys.modules else find_spec(package)
    places = None if found is None else found.submodule_search_locations
    spec = None if places is None else PathFinder.find_spec(name, list(places))
    if spec is None or spec.loader is None:
        return import_module(name)
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _Packages.modules.setdefault(package, []).append(name)
    if _Packages not in sys.meta_path:
        sys.meta_path.insert(0, _Packages)
    return module


class _Packages(MetaPathFinder):
    """Finds packages of which modules were imported alone.

    Python makes a module an attribute of its package only when it imports it.
    """

    modules: ClassVar[dict[str, list[str]]] = {}

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of these packages as Python does."""
        if name not in cls.modules:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _WithModules(spec.loader)
        return spec


class _WithModules(Loader):
    """Loads a package that has its modules already."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create it as its own loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Add the modules, and execute it with its own loader, which it has from now on."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        for name in _Packages.modules[module.__name__]:
            setattr(module, name.rpartition(".")[2], sys.modules[name])
        self._loader.exec_module(module)
