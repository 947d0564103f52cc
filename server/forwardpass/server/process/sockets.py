"""The sockets of this machine, as its kernel lists them."""

from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"


def established(port: int) -> int | None:
    """Return the number of TCP connections to a port of this machine; None where no table is."""
    local = f":{port:04X}"
    count: int | None = None
    for table in _TABLES:
        try:
            lines = table.read_text("ascii").splitlines()
        except OSError:
            continue
        count = (count or 0) + sum(_is_of(line.split(), local) for line in lines[1:])
    return count


def _is_of(columns: list[str], local: str) -> bool:
    """Return whether a line is of a connection: number, local and remote address, state, ..."""
    return columns[1].endswith(local) and columns[3] == _ESTABLISHED
