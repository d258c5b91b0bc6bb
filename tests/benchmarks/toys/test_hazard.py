"""T3: a point gets across a ditch, from random steps of which few did.

Steps go in one of four directions, wherever the point is. Only a long one, from near enough,
crosses; the mean of what the data does, even of the better part of it, falls short: without a
latent action that tells directions apart, or with one that is hardly used, there is no way. What
ends in the ditch ends the episode, as the goal does, which alone pays. Features are the position,
so that what is tested is `twin_policy.lapo`, and the transitions that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from toy_robot import report

from twin_policy.lapo import Lapo, Transition, active_units
from twin_policy.lapo_config import LapoConfig

pytestmark = pytest.mark.slow

STEP, LENGTHS, JITTER = 0.35, (0.4, 1.8), 0.02
"""Directions are along the axes; lengths are drawn from these, times STEP."""
START, GOAL, DITCH = (-0.3, 0.0), 0.7, 0.13
"""The goal is all beyond this x; the ditch lies around 0, and DITCH is half its width. The edges of
the square [-1, 1]^2 hold the point back."""
WAY = ((0.2, 0.0), (0.6, 0.0))
"""Points between the ditch and the goal."""
N_EPISODES, N_ROLLOUTS, N_STEPS = 6000, 200, 24
N_ITERATIONS, BATCH, LR = 2000, 128, 1e-3

Points = NDArray[np.float64]


def in_hazard(points: Points) -> NDArray[np.bool_]:
    lost: NDArray[np.bool_] = np.abs(points[:, 0]) < DITCH
    return lost


def at_goal(points: Points) -> NDArray[np.bool_]:
    there: NDArray[np.bool_] = points[:, 0] > GOAL
    return there


def move(points: Points, actions: Points) -> Points:
    return np.clip(points + actions, -1, 1)


@dataclass(frozen=True)
class Steps:
    """Transitions of many episodes, in no order."""

    before: Tensor
    """float (n, 2)."""
    after: Tensor
    action: Tensor
    """float (n, 2), each dimension of deviation 1."""
    reward: Tensor
    """(n,)."""
    terminal: Tensor
    """bool (n,)."""
    scale: float
    """What the actions were divided by."""


def wander(rng: np.random.Generator) -> Steps:
    """Random steps from anywhere outside of hazard and goal, until something happens."""
    rows: list[tuple[Points, Points, Points]] = []
    points = rng.uniform(-1, 1, (N_EPISODES, 2))
    points = points[~(in_hazard(points) | at_goal(points))]
    for _ in range(N_STEPS):
        directions = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
        lengths = STEP * rng.uniform(*LENGTHS, (len(points), 1))
        actions = lengths * directions[rng.integers(4, size=len(points))]
        actions = actions + rng.normal(0, JITTER, actions.shape)
        after = move(points, actions)
        rows.append((points, actions, after))
        points = after[~(in_hazard(after) | at_goal(after))]
    before, action, after = (np.concatenate(part) for part in zip(*rows, strict=True))
    scale = float(action.std())
    return Steps(
        before=torch.from_numpy(before).float(),
        after=torch.from_numpy(after).float(),
        action=torch.from_numpy(action / scale).float(),
        reward=torch.from_numpy(at_goal(after)).float(),
        terminal=torch.from_numpy(in_hazard(after) | at_goal(after)),
        scale=scale,
    )


@pytest.fixture(scope="module")
def steps() -> Steps:
    return wander(np.random.default_rng(0))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(steps: Steps, *, seed: int = 0, terminals: bool = True, **changes: Any) -> Lapo:
    """By iterations as `twin_train.lapo_loop.update` does them."""
    options = {"latent_dim": 4, "hidden_dim": 96, "n_layers": 3, "beta": 1.0, "discount": 0.9}
    torch.manual_seed(seed)
    lapo = Lapo(LapoConfig(**options | {"tau": 0.03} | changes), feature_dim=2, action_dim=2)
    optimizer = torch.optim.Adam(lapo.parameters(), lr=LR, fused=True)
    generator = torch.Generator().manual_seed(seed)
    parts = lapo.parts()

    def learn(loss: Tensor, name: str) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=parts[name])
        optimizer.step()

    ends = steps.terminal if terminals else torch.zeros_like(steps.terminal)
    for _ in range(N_ITERATIONS):
        rows = torch.randint(len(steps.before), (BATCH,), generator=generator)
        before, after = steps.before[rows], steps.after[rows]
        batch = Transition(
            action=steps.action[rows],
            valid=torch.ones((BATCH, 2), dtype=torch.bool),
            reward=steps.reward[rows],
            discount=lapo.config.discount * (~ends[rows]).float(),
        )
        learn(lapo.critic_loss(before, after, batch, generator)[0], "critic")
        learn(lapo.vae_loss(before, before, after, batch, generator)[0], "vae")
        learn(lapo.actor_loss(before), "actor")
        lapo.follow()
    return lapo.eval()


@torch.no_grad()
def rollouts(lapo: Lapo, steps: Steps, *, prior: bool = False) -> tuple[Any, Any]:
    """Which of them came to the goal, and which into the hazard."""
    rng = np.random.default_rng(1)
    generator = torch.Generator().manual_seed(1)
    points = np.array(START) + rng.uniform(-0.05, 0.05, (N_ROLLOUTS, 2))
    arrived, lost = np.zeros(N_ROLLOUTS, bool), np.zeros(N_ROLLOUTS, bool)
    for _ in range(N_STEPS):
        features = torch.from_numpy(points).float()
        drawn = torch.randn((N_ROLLOUTS, lapo.config.latent_dim), generator=generator)
        actions = lapo.decode(features, drawn if prior else lapo.latent(features))
        going = ~(arrived | lost)
        points = np.where(going[:, None], move(points, actions.numpy() * steps.scale), points)
        arrived |= at_goal(points)
        lost |= in_hazard(points)
    return arrived, lost


def score(name: str, lapo: Lapo, steps: Steps, *, prior: bool = False) -> float:
    arrived, lost = rollouts(lapo, steps, prior=prior)
    with torch.no_grad():
        active = active_units(lapo.vae.posterior(steps.before[:2000], steps.action[:2000])[0])
    said = f"in the hazard {lost.mean():.2f}, active units {active}"
    return report(f"T3 {name}", arrived, said)


@pytest.fixture(scope="module")
def right(steps: Steps) -> Lapo:
    return train(steps)


def values(name: str, lapo: Lapo) -> list[float]:
    """At the start, beyond the ditch, and before the goal."""
    with torch.no_grad():
        found: list[float] = lapo.critic.value(torch.tensor([START, *WAY])).tolist()
    print(f"T3 {name}: V {', '.join(f'{each:.2f}' for each in found)}")
    return found


@torch.no_grad()
def unheard_of(name: str, lapo: Lapo, steps: Steps) -> float:
    """Share of states in which the actor's step is longer, by a tenth, than any in the data."""
    points = steps.before[:2000]
    lengths = lapo.decode(points, lapo.latent(points)).norm(dim=-1)
    share = float((lengths > 1.1 * steps.action.norm(dim=-1).max()).float().mean())
    print(f"T3 {name}: steps longer than any in the data: {share:.2f}")
    return share


def test_the_actor_gets_across(right: Lapo, steps: Steps) -> None:
    assert score("policy", right, steps) >= 0.95
    assert unheard_of("policy", right, steps) <= 0.05


def test_the_prior_does_so_sometimes(right: Lapo, steps: Steps) -> None:
    assert 0.1 <= score("prior", right, steps, prior=True) <= 0.4


def test_values_rise_along_the_way(right: Lapo) -> None:
    start, middle, goal = values("policy", right)
    assert start < middle < goal <= 1.05


@pytest.mark.parametrize(
    ("name", "changes"),
    [("beta 4", {"beta": 4.0}), ("max_latent_action 0.1", {"max_latent_action": 0.1})],
)
def test_without_a_choice_it_does_not_get_across(
    steps: Steps, name: str, changes: dict[str, Any]
) -> None:
    assert score(name, train(steps, **changes), steps) <= 0.2


def test_too_wide_a_latent_action_leaves_the_data(steps: Steps) -> None:
    """For what Q only guesses at; here, with walls that hold it, it need not come to harm."""
    lapo = train(steps, max_latent_action=10.0)
    score("max_latent_action 10", lapo, steps)
    assert unheard_of("max_latent_action 10", lapo, steps) >= 0.3


def test_without_terminals_and_bounds_values_leave_what_returns_can_be(steps: Steps) -> None:
    """Here, what it takes for worth need not lead it astray."""
    lapo = train(steps, terminals=False, min_v=-math.inf, max_v=math.inf)
    score("no terminals, no bounds", lapo, steps)
    assert min(values("no terminals, no bounds", lapo)) > 2
