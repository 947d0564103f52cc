"""`forwardpass doctor`: its checks, a module for each subject, and how they are shown."""

from forwardpass.cli.doctor.examination import examine

__all__ = ["examine"]
