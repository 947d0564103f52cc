"""What a model file has to be before onnxruntime sees it: proven in Python, from its bytes.

A file that passes is safe to pass on: it is whole, refers to nothing outside its folder and has
no part that may take memory or time without bound. Whether it may be loaded in the server's own
process is a second question: `Checked.plain` answers it for plain feed-forward networks, which
are proven node by node; everything else has to pass a trial in another process first
(`forwardpass.server.repository.trial`).

`Limits` needs no onnx; the other names are imported when they are asked for.
"""

from typing import TYPE_CHECKING

from forwardpass.proto.late import late_names
from forwardpass.server.guard.limits import Limits

if TYPE_CHECKING:
    from forwardpass.server.guard.canonical import canonicalize
    from forwardpass.server.guard.check import Checked, check_file, files_beside
    from forwardpass.server.guard.errors import GuardError, NoRoomError
    from forwardpass.server.guard.trust import written_by_anybody

__all__ = [
    "Checked",
    "GuardError",
    "Limits",
    "NoRoomError",
    "canonicalize",
    "check_file",
    "files_beside",
    "written_by_anybody",
]

_WHEN_ASKED_FOR = {
    "Checked": "forwardpass.server.guard.check",
    "GuardError": "forwardpass.server.guard.errors",
    "NoRoomError": "forwardpass.server.guard.errors",
    "canonicalize": "forwardpass.server.guard.canonical",
    "check_file": "forwardpass.server.guard.check",
    "files_beside": "forwardpass.server.guard.check",
    "written_by_anybody": "forwardpass.server.guard.trust",
}
"""The modules of the names that need onnx."""

__getattr__, __dir__ = late_names(globals(), _WHEN_ASKED_FOR)
