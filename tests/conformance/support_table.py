"""The tables of docs/clients.md: what was found, client by client. `make docs-clients` writes them.

A cell is "yes", or the status code with which the server refuses by design, or empty where it was
not tried; what fails has no cell, and then there is no table.
"""

from collections.abc import Mapping, Sequence

from conformance.clients import CLIENTS, Found, found
from conformance.environments import ROOT

from forwardpass.server.config import Transport

PAGE = ROOT / "docs" / "clients.md"
BEGIN = "<!-- Written by `make docs-clients` from a run, and compared with one by a test. -->\n"
END = "<!-- To here. -->\n"

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
    "errors": "mistakes, told by NOT_FOUND and INVALID_ARGUMENT",
}
"""What a ModelInfer call may be -> how the table says it."""


def tables(results: Sequence[Found]) -> str:
    """Write the tables of what was found.

    Raises ValueError for what failed, and for a row that has no place in them.
    """
    failed = [f"{result.client}: {row}" for result in results for row in result.faults]
    if failed:
        raise ValueError(f"expected no faults, got {', '.join(failed)}; the tests say why")
    rows = {result.client: dict(result.rows) for result in results}
    for client, cells in rows.items():
        unknown = cells.keys() - {*RPCS, *WAYS}
        if unknown:
            raise ValueError(f"{client}: expected rows of RPCS or WAYS, got {sorted(unknown)}")
        if WAYS.keys() & cells.keys():
            cells["ModelInfer"] = "yes"
    rpcs = [[name, *(cells.get(name, "") for cells in rows.values())] for name in RPCS]
    ways = [
        [said, *(cells.get(name, "") for cells in rows.values())] for name, said in WAYS.items()
    ]
    return f"\n{_table('RPC', rows, rpcs)}\n{_table('`ModelInfer` with', rows, ways)}\n"


def _table(heading: str, titles: Mapping[str, object], rows: Sequence[Sequence[str]]) -> str:
    lines = [[heading, *titles], *rows]
    texts = ["|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in lines]
    texts.insert(1, "|" + "---|" * len(lines[0]))
    return "\n".join(texts) + "\n"


def found_by_all() -> list[Found]:
    """Try every client."""
    return [found(name, Transport.GRPCIO) for name in CLIENTS]


def committed() -> str:
    """Return the tables as they stand in the page."""
    return _parts()[1]


def main() -> None:
    """Write what is found now into the page."""
    before, _, after = _parts()
    PAGE.write_text(f"{before}{tables(found_by_all())}{after}")


def _parts() -> tuple[str, str, str]:
    """Part the page before and behind the tables; raises ValueError where it is not marked."""
    text = PAGE.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:start], text[start:end], text[end:]


if __name__ == "__main__":
    main()
