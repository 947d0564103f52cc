"""Where a server is, as gRPC takes it."""


def check_target(target: str) -> None:
    """Raise ValueError for a target that gRPC would misread."""
    if not isinstance(target, str):
        raise ValueError(f"target: expected HOST:PORT as text, got {target!r}")
    if target.startswith(("http://", "https://")):
        scheme, _, rest = target.partition("://")
        fix = ", with tls=True" if scheme == "https" else ""
        raise ValueError(f"target: expected HOST:PORT, got {target!r}; write {rest!r}{fix}")
    if ":" not in target:
        # gRPC would choose port 443.
        fix = f"add the port, as in '{target or 'localhost'}:8001'"
        if target.isdigit():
            fix = f"add the host, as in 'localhost:{target}'"
        raise ValueError(f"target: expected HOST:PORT, got {target!r}; {fix}")
