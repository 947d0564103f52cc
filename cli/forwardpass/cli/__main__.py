"""Entry point: run the command, or say what has to be installed for it."""

import sys


def main() -> None:
    """Run `forwardpass`; exit code 0 for success, 1 for an error, 2 for wrong usage."""
    try:
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


if __name__ == "__main__":
    main()
