"""What a model file has to be before onnxruntime sees it: proven in Python, from its bytes.

A file that passes is safe to hand on: it is whole, refers to nothing outside its folder and has
no part that may take memory or time without bound. Whether it may be loaded in the server's own
process is a second question: `Checked.plain` answers it for plain feed-forward networks, which
are proven node by node; everything else has to pass a trial in another process first
(`forwardpass.server.trial`).
"""

from forwardpass.server.guard.check import Checked, check_file
from forwardpass.server.guard.errors import GuardError
from forwardpass.server.guard.limits import Limits
from forwardpass.server.guard.trust import written_by_anybody

__all__ = ["Checked", "GuardError", "Limits", "check_file", "written_by_anybody"]
