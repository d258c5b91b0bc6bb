"""The record of one episode: what was run, how it ended, and where its randomness came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

SCHEMA = 2
"""Version of `EpisodeRecord` and of the journal's lines; raised whenever a field changes."""

Outcome = Literal["success", "failure", "error"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """One finished episode. A crash of policy, simulator or worker is an `error`, no failure."""

    task: str
    """The task's name."""
    policy: str
    """The policy's name (its folder)."""
    index: int
    """Place in the run's fixed list of episodes, from 0."""
    seed: int
    """Seed of the scene."""
    policy_seed: int
    """Seed that the policy was loaded with (`usr_args["seed"]`)."""
    outcome: Outcome
    """How it ended."""
    reason: str
    """Why it failed or what broke; empty for a success."""
    steps: int
    """Actions taken (`take_action_cnt`)."""
    clamped_actions: int
    """Actions outside the joint limits, clamped by the simulator; 0 where it does not count."""
    instruction: str
    """The sentence that the policy was given."""
    wall_s: float
    """Wall time of the episode, loading of the policy not included, seconds."""
    attempts: int
    """1, or 2 if the worker died in the first attempt."""
    video: str
    """Path of the MP4 relative to the run's folder; empty if none was recorded."""
    schema: int = SCHEMA
    """Version of this record."""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {OUTCOMES}: got {self.outcome!r}")


def record_to_dict(record: EpisodeRecord) -> dict[str, Any]:
    """The record as a JSON object."""
    return asdict(record)


def record_from_dict(values: Mapping[str, Any]) -> EpisodeRecord:
    """The record in a JSON object.

    Raises:
        ValueError: if the object is of another schema or its fields are not exactly a record's.
    """
    if values.get("schema") != SCHEMA:
        raise ValueError(
            f"this version reads records of schema {SCHEMA}: got {values.get('schema')!r}"
        )
    known = {field.name for field in fields(EpisodeRecord)}
    if set(values) != known:
        raise ValueError(
            f"an episode record has the fields {sorted(known)}; "
            f"missing: {sorted(known - set(values))}, unexpected: {sorted(set(values) - known)}"
        )
    return EpisodeRecord(**values)
