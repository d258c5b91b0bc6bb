"""The record of one episode: what was run, how it ended, and where its randomness came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

SCHEMA = 3
"""Version of `EpisodeRecord` and of the journal's lines; raised whenever a field changes."""

Outcome = Literal["success", "failure", "error"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

PARTS = ("setup", "observation", "policy", "action", "video", "other")
"""What an episode's time is spent on: building the scene, `get_obs`, the policy's own work,
`take_action`, filming, and the rest, such as recording rollouts."""


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """One finished episode. A crash of policy, simulator or worker is an `error`, no failure."""

    session: str
    """Id of the journal's session line: host, versions, commits, command."""
    task: str
    """The task's name."""
    config: str
    """Name of the environment config."""
    policy: str
    """The policy's label in the run: its folder's name unless it was given another."""
    checkpoint: str
    """Digest of its checkpoint; `none` if it has none."""
    index: int
    """Place in the cell's fixed list of episodes, from 0."""
    seed: int
    """Seed of the scene."""
    noise_seed: int
    """Seed of the policy's own randomness."""
    outcome: Outcome
    """How it ended."""
    reason: str
    """Why it failed or what broke; empty for a success."""
    steps: int
    """Actions taken (`take_action_cnt`)."""
    clamped_actions: int
    """Actions outside the joint limits, clamped by the simulator; 0 where it does not count."""
    stages: tuple[str, ...] = ()
    """The task's stages in order; none where the simulator knows none."""
    stages_reached: int = 0
    """How many of them were reached, at the furthest."""
    success_step: int | None = None
    """Actions taken when success was first seen; None without success."""
    sim_time_s: float | None = None
    """Simulated time until then, or until the end; None where the simulator does not tell."""
    layout: Mapping[str, list[float]] = field(default_factory=dict)
    """Where the objects stood at the start: name to [x, y, z], metres; empty if not told."""
    instruction: str
    """The sentence that the policy was given."""
    actions_digest: str
    """16 hex digits over all actions in order: equal for two episodes that were the same."""
    times: Mapping[str, list[float]] = field(default_factory=dict)
    """Of `PARTS`: [wall time, CPU time of the worker's process], seconds."""
    attempts: int
    """1, or 2 if the worker died or hung in the first attempt."""
    video: str
    """Path of the MP4 relative to the run's folder; empty if none was kept."""
    schema: int = SCHEMA
    """Version of this record."""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {OUTCOMES}: got {self.outcome!r}")

    @property
    def wall_s(self) -> float:
        """Wall time of the episode, loading of the policy not included."""
        return round(sum(wall for wall, _ in self.times.values()), 3)

    @property
    def cpu_s(self) -> float:
        """CPU time of the worker's process in it, all threads."""
        return round(sum(cpu for _, cpu in self.times.values()), 3)

    @property
    def stage(self) -> str:
        """Name of the furthest stage reached; empty if none was."""
        return self.stages[self.stages_reached - 1] if self.stages_reached else ""


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
    return EpisodeRecord(**{**values, "stages": tuple(values["stages"])})
