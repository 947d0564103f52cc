"""The tables of docs/clients.md: what was found, client by client. `make docs-clients` writes them.

A cell is "yes", or the status code with which the server refuses by design, or empty where it was
not tried; what fails has no cell, and then there is no table.
"""

from collections.abc import Iterable, Mapping, Sequence

from conformance.clients import CLIENTS, REST_CLIENTS, Found, found
from conformance.environments import ROOT

from forwardpass.server.config import Transport

PAGE = ROOT / "docs" / "clients.md"
BEGIN = "<!-- Written by `make docs-clients` from a run, and compared with one by a test. -->\n"
END = "<!-- To here. -->\n"
REST_BEGIN = "<!-- The same over HTTP. -->\n"

RPCS = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelInfer",
    "ModelStreamInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "LogSettings",
    "TraceSetting",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryUnregister",
    "Health: Check",
    "Health: List",
    "Health: Watch",
    "Reflection v1",
    "Reflection v1alpha",
)
WAYS = {
    "raw tensors": "tensors as bytes",
    "typed contents": "tensors in `contents`, INT64 beyond 2^53 among them",
    "BYTES": "BYTES, an empty element and one that is not ASCII among them",
    "every datatype": "every datatype of numbers, its extremes among them",
    "chosen outputs": "some of the outputs",
    "a version": "a version by its number, and the latest by an empty one",
    "the request's id": "the request's id, which comes back",
    "parameters": "parameters that only the caller knows, which change nothing",
    "classification": "`classification`: the highest columns",
    "compressed": "compressed by the client",
    "1,000 rows": "1,000 rows in a call",
    "at the same time": "calls at the same time on one connection",
    "a deadline": "a deadline that passes: DEADLINE_EXCEEDED",
    "errors": "mistakes, answered NOT_FOUND and INVALID_ARGUMENT",
}
"""What a ModelInfer call may be -> how the table says it."""
REST_WAYS = {
    "JSON": "tensors as JSON",
    "raw tensors": "tensors as bytes after the JSON",
    "compressed": "compressed by the client or the server",
    "named features": "named features (`:predict`)",
    "errors": "mistakes, answered 404 and 400",
} | {
    name: said
    for name, said in WAYS.items()
    if name not in ("typed contents", "raw tensors", "compressed", "a deadline", "errors")
}
"""The same over HTTP."""


def tables(results: Sequence[Found], ways: Mapping[str, str] = WAYS, heading: str = "RPC") -> str:
    """Write the tables of what was found; heading: Of the first one.

    Raises ValueError for what failed, and for a row that has no place in them.
    """
    failed = [f"{result.client}: {row}" for result in results for row in result.faults]
    if failed:
        raise ValueError(f"expected no faults, got {', '.join(failed)}; the tests say why")
    rows = {result.client: dict(result.rows) for result in results}
    for client, cells in rows.items():
        unknown = cells.keys() - {*RPCS, *ways}
        if unknown:
            raise ValueError(f"{client}: expected rows of RPCS or ways, got {sorted(unknown)}")
        if ways.keys() & cells.keys():
            cells["ModelInfer"] = "yes"
    asked = {name for cells in rows.values() for name in cells}
    rpcs = [
        [name, *(cells.get(name, "") for cells in rows.values())] for name in RPCS if name in asked
    ]
    called = [
        [said, *(cells.get(name, "") for cells in rows.values())] for name, said in ways.items()
    ]
    return f"\n{_table(heading, rows, rpcs)}\n{_table('`ModelInfer` with', rows, called)}\n"


def rest_tables(results: Sequence[Found]) -> str:
    """Write the tables of what was found over HTTP; see `tables`."""
    return tables(results, REST_WAYS, "request, by its RPC")


def _table(heading: str, titles: Mapping[str, object], rows: Sequence[Sequence[str]]) -> str:
    lines = [[heading, *titles], *rows]
    texts = ["|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in lines]
    texts.insert(1, "|" + "---|" * len(lines[0]))
    return "\n".join(texts) + "\n"


def found_by_all(clients: Iterable[str]) -> list[Found]:
    """Try every client."""
    return [found(name, Transport.ASYNCIO) for name in clients]


def committed(begin: str) -> str:
    """Return the tables as they stand in the page after BEGIN, or REST_BEGIN."""
    return _parts(begin)[1]


def write(begin: str, written: str) -> None:
    """Write tables into the page."""
    before, _, after = _parts(begin)
    PAGE.write_text(f"{before}{written}{after}")


def main() -> None:
    """Write what is found now into the page."""
    write(BEGIN, tables(found_by_all(CLIENTS)))
    write(REST_BEGIN, rest_tables(found_by_all(REST_CLIENTS)))


def _parts(begin: str) -> tuple[str, str, str]:
    """Part the page before and behind the tables; raises ValueError where it is not marked."""
    text = PAGE.read_text()
    start = text.index(begin) + len(begin)
    end = text.index(END, start)
    return text[:start], text[start:end], text[end:]


if __name__ == "__main__":
    main()
