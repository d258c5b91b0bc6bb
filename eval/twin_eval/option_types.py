"""Kinds of values that options of the command line take."""

from __future__ import annotations

import argparse

from twin_eval.rollouts import RolloutMode
from twin_eval.video import VideoMode


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def seconds(text: str) -> float:
    """A time above 0."""
    return _number(text, "a number of seconds above 0", above=0.0)


def alpha(text: str) -> float:
    """An error rate."""
    return _number(text, "an error rate in (0, 0.5)", above=0.0, below=0.5)


def video_mode(text: str) -> VideoMode:
    """`off`, `failures`, `all`, `first:K`, or K for short."""
    word = text if not text.isdigit() else f"first:{text}" if int(text) else "off"
    try:
        return VideoMode.parse(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def rollout_mode(text: str) -> RolloutMode:
    """`off`, `all`, `successes`, `failures` or `first:K`."""
    try:
        return RolloutMode.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"a whole number of at least {least}: got {text!r}")
    return number


def _number(text: str, rule: str, *, above: float, below: float = float("inf")) -> float:
    try:
        number = float(text)
    except ValueError:
        number = above
    if not above < number < below:
        raise argparse.ArgumentTypeError(f"{rule}: got {text!r}")
    return number
