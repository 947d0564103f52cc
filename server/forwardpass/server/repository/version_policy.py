"""Which versions of a model are served: the latest, all of them, or those that are named."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Self

_LATEST = re.compile(r"latest(?::([1-9][0-9]{0,8}))?")
_NAMED = re.compile(r"[1-9][0-9]{0,17}(?:,[1-9][0-9]{0,17})*")


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """The versions of every model to serve: all, unless one of the fields is set."""

    latest: int | None = None
    """Maximum number of versions: the highest that answer; one that fails does not count."""
    named: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `all`, `latest`, `latest:N` or numbers as in `1,3`.

        Raises ValueError that says what is allowed.
        """
        text = text.replace(" ", "")
        if text == "all":
            return cls()
        if (found := _LATEST.fullmatch(text)) is not None:
            return cls(latest=int(found[1] or 1))
        if _NAMED.fullmatch(text):
            return cls(named=tuple(sorted({int(number) for number in text.split(",")})))
        raise ValueError(
            f"versions: expected 'all', 'latest', 'latest:N' or numbers as in '1,3', got {text!r}"
        )

    def choose(self, versions: Iterable[int], failed: Collection[int] = ()) -> list[int]:
        """Choose what to serve of the versions that are there, highest first.

        failed: those that are known not to answer. They are chosen too, so that their reason
        is reported, but under `latest` an older one takes their place.
        """
        chosen: list[int] = []
        answering = 0
        for version in sorted(versions, reverse=True):
            if answering == self.latest:
                break
            if not self.named or version in self.named:
                chosen.append(version)
                answering += version not in failed
        return chosen

    def __str__(self) -> str:
        if self.latest is not None:
            return f"latest:{self.latest}"
        return ",".join(map(str, self.named)) or "all"
