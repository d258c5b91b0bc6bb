"""Errors about names: every unknown task, camera or key is answered with its nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, or None if there are no choices."""
    ranked = sorted(
        choices,
        key=lambda c: difflib.SequenceMatcher(None, name.lower(), c.lower()).ratio(),
        reverse=True,
    )
    return ranked[0] if ranked else None


def unknown(kind: str, name: object, choices: Iterable[str]) -> ValueError:
    """The error to raise for `name`, of any type, which is none of the `choices` of this kind."""
    known = sorted(choices)
    hint = f"; did you mean {nearest(str(name), known)!r}?" if known else ""
    return ValueError(f"unknown {kind} {name!r}{hint} Known: {', '.join(known) or 'none'}")
