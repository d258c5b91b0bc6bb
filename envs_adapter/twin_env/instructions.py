"""What a policy is told: one of the task's phrasings, drawn by the scene's seed alone."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

SPLITS = ("seen", "unseen")


def draw_instruction(choices: Sequence[str], seed: int) -> str:
    """One of the choices, by the seed alone; empty if there is none."""
    return random.Random(seed).choice(choices) if choices else ""


def draw_instructions(env: Any, seed: int) -> dict[str, str]:
    """Split -> instruction, of a simulator in which the expert has just played.

    Some phrasings name what only `play_once` decides, such as the arm.
    """
    choices: Mapping[str, Sequence[str]] = getattr(env, "instructions", dict)()
    return {split: draw_instruction(choices.get(split, ()), seed) for split in SPLITS}
