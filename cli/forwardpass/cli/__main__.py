"""Entry point: run the command, or say what has to be installed for it."""

import gc
import os
import signal
import sys


def main() -> None:
    """Run `forwardpass`; exit code 0 for success, 1 for an error, 2 for wrong usage."""
    serves = sys.argv[1:2] == ["serve"]
    if serves:
        _receive_signals()
    try:
        if serves:
            _serve()
        from forwardpass.cli.app import run

        run()
    except ModuleNotFoundError as error:
        package = (error.name or "forwardpass").partition(".")[0]
        if package == "forwardpass":
            raise
        sys.exit(
            f"error: the command needs {package}, which is not installed; "
            "run: pip install 'forwardpass[all]'"
        )


def _serve() -> None:
    """Serve, if typer is not needed to read the options, and end with the command's exit code.

    A start that waits for what no answer needs is a restart that takes as much longer.
    """
    # What is made now stays: looking through it for garbage again and again takes 0.05 s.
    gc.disable()
    from forwardpass.cli.options.plain import read

    config = read(sys.argv[2:], os.environ)
    if config is None:
        gc.enable()
        return
    from forwardpass.cli.serving.serve import serve_models

    gc.freeze()
    gc.enable()
    try:
        serve_models(config)
    except Exception as error:
        from forwardpass.cli.app import fail

        fail(error)


def _receive_signals() -> None:
    """Handle signals before the first import that takes time.

    Process 1 of a container does not even notice a signal that it has no handler for, and any
    other would end with the wrong exit code. Until there is a server there is nothing to drain
    or to read again.
    """
    for name in ("SIGTERM", "SIGINT", "SIGQUIT"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: os._exit(0))
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)


if __name__ == "__main__":
    main()
