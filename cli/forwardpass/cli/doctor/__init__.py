"""`forwardpass doctor`: what is checked, one module a subject, and how it is shown."""

from forwardpass.cli.doctor.examination import examine

__all__ = ["examine"]
