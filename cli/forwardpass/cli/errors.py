"""Errors of the command line, and which errors are told in one line without a traceback."""


class CommandError(Exception):
    """Something wrong with what the user asked for; the text says what to do."""

    exit_code = 1


class UsageError(CommandError):
    """Options or arguments that no command can follow, as seen before anything is done."""

    exit_code = 2


def is_expected(error: Exception) -> bool:
    """Tell whether an error is one of Forwardpass' own, whose text is written for people.

    By the module of its class, so that no part has to be imported to know its errors; errors
    of the operating system (a missing file, a full disk) are expected, too.
    """
    ours = any(cls.__module__.startswith("forwardpass.") for cls in type(error).__mro__)
    return ours or isinstance(error, OSError)


def describe(error: Exception) -> str:
    """Return the text of an expected error; of the operating system's, the file and what it is."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
