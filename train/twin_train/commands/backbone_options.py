"""How options of the command line name a backbone: a policy's config, or a bare name, changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twin_train.config import RunConfig


def read_config(
    policy: str | None,
    backbone: str | None,
    assignments: list[str],
    changes: Mapping[str, Any],
) -> RunConfig:
    """A policy's config, or one of a backbone alone, after `--set`.

    Args:
        changes: of `policy.encoder`; None leaves a key as it is.

    Raises:
        ValueError: neither a policy nor a backbone; an unknown key.
    """
    from twin_policy.parsing import parse, set_keys
    from twin_train.config import RunConfig, load_run_config

    if policy:
        config = load_run_config(policy, assignments)
    elif backbone:
        bare = {"policy": {"cameras": {}, "encoder": {"backbone": backbone}}}
        values = set_keys({**bare, "train": {"num_steps": 1}}, assignments)
        config = parse(RunConfig, values, source="--backbone")
    else:
        raise ValueError("which backbone? Give --backbone, or --policy to take a policy's")
    said = {name: value for name, value in changes.items() if value is not None}
    encoder = replace(config.policy.encoder, **said)
    return replace(config, policy=replace(config.policy, encoder=encoder))


def parse_input_size(word: str) -> tuple[int, int]:
    """`HEIGHTxWIDTH` of a network's input."""
    height, _, width = word.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"--size must be HEIGHTxWIDTH, as 224x224, not {word}")
    return int(height), int(width)


def parse_layer(word: int | str) -> int | str:
    """A layer's number, if it is one, or its name."""
    try:
        return int(word)
    except ValueError:
        return word
