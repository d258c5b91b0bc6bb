"""Windows of episodes: what pairs with what, and where the edges are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training_fixtures import make_frame, write_episodes

from twin_env.episodes import EpisodeFileError, write_episode
from twin_policy.config import PolicyConfig
from twin_train.dataset import (
    Transitions,
    Windows,
    fit_normalizer,
    load_transitions,
    rows_of_step,
    split_episodes,
)

SIZES = {"head_camera": (24, 32), "right_camera": (12, 16)}


@pytest.fixture
def data(tmp_path: Path) -> Transitions:
    return load_transitions(write_episodes(tmp_path, 3), SIZES, threads=2, quiet=True)


def test_windows_repeat_the_edges_of_their_episode(data: Transitions) -> None:
    """G9. With To 3 and H 8 there is one window a frame, from 2 before it to 5 after it."""
    windows = Windows(data, [0, 1, 2], n_obs_steps=3, horizon=8)
    assert len(windows) == sum(data.lengths)
    rows = iter(zip(windows.steps.tolist(), windows.valid.tolist(), strict=True))
    for start, length in zip(data.starts, data.lengths, strict=True):
        for frame in range(length):
            reach = range(frame - 2, frame + 6)
            steps, valid = next(rows)
            assert steps == [start + min(max(step, 0), length - 1) for step in reach]
            assert valid == [0 <= step < length for step in reach]


def test_actions_are_the_next_states(data: Transitions) -> None:
    assert data.lengths == (11, 12, 13)
    batch = Windows(data, [0, 1, 2], n_obs_steps=2, horizon=4).batch([0, 5, 11])
    assert batch.state[:, :, 0].tolist() == [[0, 0], [4, 5], [100, 100]]
    # The window's first action is of the first observation; the present one is at To - 1.
    assert batch.action[:, :, 0].tolist() == [[1, 1, 2, 3], [5, 6, 7, 8], [101, 101, 102, 103]]
    assert batch.valid.tolist()[0] == [False, True, True, True]


def test_pictures_go_with_their_states(data: Transitions) -> None:
    windows = Windows(data, [0, 1, 2], n_obs_steps=2, horizon=4)
    batch = windows.batch(range(len(windows)))
    red = batch.images["head_camera"][..., 0].float().mean(dim=(2, 3))
    green = batch.images["right_camera"][..., 1].float().mean(dim=(2, 3))
    episode, step = batch.state[..., 0].div(100, rounding_mode="floor"), batch.state[..., 0] % 100
    assert (red - 40 * episode).abs().max() < 6
    assert (green - step).abs().max() < 6
    assert batch.images["right_camera"].shape == (len(windows), 2, 12, 16, 3)


def test_a_split_is_by_episode() -> None:
    train, val = split_episodes(50, val_ratio=0.1, seed=3)
    assert sorted(train + val) == list(range(50))
    assert len(val) == 5
    assert (train, val) == split_episodes(50, val_ratio=0.1, seed=3)
    assert val != split_episodes(50, val_ratio=0.1, seed=4)[1]
    assert split_episodes(1, val_ratio=0.5, seed=0) == ([0], [])
    assert [len(part) for part in split_episodes(2, val_ratio=0.01, seed=0)] == [1, 1]


def test_statistics_are_of_the_training_split_only(data: Transitions) -> None:
    config = PolicyConfig(cameras=SIZES, n_obs_steps=2, horizon=4, n_action_steps=2)
    windows = Windows(data, [0, 1], n_obs_steps=2, horizon=4)
    fitted = fit_normalizer(windows, config, (6, 13))
    ends = fitted.state.unnormalize(fitted.state.scale.new_tensor([[-1.0] * 14, [1.0] * 14]))
    np.testing.assert_allclose(ends[:, 0], [0, 111], atol=1e-4)
    ends = fitted.action.unnormalize(fitted.state.scale.new_tensor([[-1.0] * 14, [1.0] * 14]))
    np.testing.assert_allclose(ends[:, 0], [1, 112], atol=1e-4)
    assert fitted.action.frozen.tolist() == [False] * 7 + [True] * 7


def test_statistics_of_relative_actions(data: Transitions) -> None:
    config = PolicyConfig(
        cameras=SIZES, n_obs_steps=2, horizon=4, n_action_steps=2, action_representation="relative"
    )
    fitted = fit_normalizer(Windows(data, [0, 1], n_obs_steps=2, horizon=4), config, (6, 13))
    ends = fitted.action.unnormalize(fitted.state.scale.new_tensor([[-1.0] * 14, [1.0] * 14]))
    # From the action of the step before (0 ahead of the present state) to two steps later.
    np.testing.assert_allclose(ends[:, 0], [0, 3], atol=1e-4)
    np.testing.assert_allclose(ends[:, 6], [1, 112], atol=1e-4)


def test_epochs_take_each_window_once() -> None:
    rows = np.concatenate([rows_of_step(step, n=10, batch_size=4, seed=0) for step in range(5)])
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    assert rows_of_step(0, n=3, batch_size=8, seed=0).shape == (8,)
    other = rows_of_step(0, n=10, batch_size=4, seed=1)
    assert rows[:4].tolist() != other.tolist()


def test_episodes_that_disagree_are_named(tmp_path: Path) -> None:
    paths = write_episodes(tmp_path, 2)
    with pytest.raises(
        EpisodeFileError, match=r"episode0.*front_camera.*unknown camera.*did you mean"
    ):
        load_transitions(paths, {"front_camera": (4, 4)}, threads=1, quiet=True)
    write_episode(paths[1], [make_frame(np.zeros(14), (0, 0, 0))])
    with pytest.raises(EpisodeFileError, match=r"episode1.*no transition"):
        load_transitions(paths, SIZES, threads=1, quiet=True)


def test_the_fingerprint_is_of_contents(tmp_path: Path, data: Transitions) -> None:
    same = load_transitions(write_episodes(tmp_path / "b", 3), SIZES, threads=1, quiet=True)
    assert same.fingerprint == data.fingerprint
    other = load_transitions(write_episodes(tmp_path / "c", 2), SIZES, threads=1, quiet=True)
    assert other.fingerprint != data.fingerprint
