"""Errors of the command line, and which errors are shown in one line without a traceback."""


class CommandError(Exception):
    """A command that cannot do what the user asked for; the text says what to do."""

    exit_code = 1


class UsageError(CommandError):
    """Options or arguments that are invalid, as found before anything is done."""

    exit_code = 2


def is_expected(error: Exception) -> bool:
    """Whether an error is one of Forwardpass' own, whose text is written for people.

    Decided by the module of its class, so that no part has to be imported for its errors; errors
    of the operating system (a missing file, a full disk) are expected, too.
    """
    ours = any(cls.__module__.startswith("forwardpass.") for cls in type(error).__mro__)
    return ours or isinstance(error, OSError)


def describe(error: Exception) -> str:
    """Return the text of an expected error; for one of the operating system, with the file."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
