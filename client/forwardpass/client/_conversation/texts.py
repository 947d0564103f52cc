"""The check of names that a caller passes, before they are written into a message."""

from forwardpass.client.errors import InvalidInputError


def check_texts(target: str, **arguments: object) -> None:
    """Raise InvalidInputError unless each is a text that a message can hold."""
    for name, text in arguments.items():
        if not isinstance(text, str):
            raise InvalidInputError(
                f"{name}: expected a text, got {text!r}; pass a str", target=target
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError(
                f"{name}: expected a text that UTF-8 can hold, got {text!r}; "
                "leave out the surrogates",
                target=target,
            ) from error
