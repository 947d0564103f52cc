"""What grpcio's C++ library writes to stderr, and reports in no other way."""

from forwardpass.server.process.incidents import Incident, Incidents, others

_INCIDENTS = {
    "File descriptor limit reached": Incident.ACCEPT,
    "Failed accept": Incident.ACCEPT,
    "Handshake failed with": Incident.HANDSHAKE,
}


def counted(line: str, incidents: Incidents) -> str | None:
    """Count the incident that a line is about, if it is about one.

    Returns the line for the log, or None if there were too many like it.
    """
    for text, kind in _INCIDENTS.items():
        if text in line:
            unlogged = incidents.count(kind)
            return None if unlogged is None else line + others(unlogged)
    return line
