"""Registries: a name twice registered raises, an unknown one is told its nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Entry = TypeVar("Entry", bound=Callable[..., object])


def unknown(kind: str, name: object, choices: Iterable[str]) -> ValueError:
    """The error to raise for `name`, of any type, which is none of the `choices`."""
    known = sorted(choices)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return ValueError(f"unknown {kind} {name!r}{hint} Known: {', '.join(known) or 'none'}")


class Registry(Generic[Entry]):
    """Constructors by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator that files a constructor under `name`.

        Raises:
            ValueError: the name is taken.
        """

        def file(entry: Entry) -> Entry:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return file

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._entries))
