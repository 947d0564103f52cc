"""Entry point: run the command, turn known errors into one line and an exit code."""

import sys


def main() -> None:
    """Run `forwardpass`; exit code 0 for success, 1 for an error, 2 for wrong usage."""
    try:
        import typer  # noqa: F401
    except ImportError:
        sys.exit("forwardpass: the command needs its extra; run: pip install 'forwardpass[all]'")
    from forwardpass.cli.app import run

    run()


if __name__ == "__main__":
    main()
