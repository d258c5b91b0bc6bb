"""Replay episodes as LAPO sees them: what follows what, and what it earned (G17)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lapo_training_fixtures import (
    CONFIG,
    DISCOUNT,
    HORIZON,
    LIT,
    SOME,
    Played,
    action_of,
    vector_of,
    write_replays,
)
from training_fixtures import write_episodes

from twin_policy.lapo_policy import LapoBatch
from twin_train.config import RunConfig, load_run_config
from twin_train.conversion import open_or_build_store
from twin_train.lapo_data import ReplayData, read_rewards, split_by_outcome
from twin_train.lapo_run import open_replay
from twin_train.layout_conversion import convert_layout
from twin_train.replay_output import CLAIM


def read(folder: Path, *assignments: str) -> ReplayData:
    config = make_config(folder, *assignments)
    store = open_or_build_store(folder, None, config.policy.cameras, workers=1, quiet=True)
    return open_replay(folder, store, config, threads=1, device=torch.device("cpu"))


def make_config(folder: Path, *assignments: str) -> RunConfig:
    path = folder.with_name("toy.yaml")
    path.write_text(CONFIG)
    return load_run_config(str(path), ["train.val_ratio=0", *assignments])


def everything(data: ReplayData) -> tuple[LapoBatch, list[tuple[int, int]]]:
    """All chunks, and the episode and step of each."""
    places = [(e, t) for e in data.split[0] for t in range(len(data.rewards[e].reward))]
    return data.training.batch(range(len(data.training))), places


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "replay"


def test_what_follows_is_of_the_same_episode(folder: Path) -> None:
    """States and pictures both; after the last chunk comes the frame that no action follows."""
    batch, places = everything(read(write_replays(folder)))
    assert len(batch.state) == len(places) == sum(each.length for each in SOME)
    for row, (episode, step) in enumerate(places):
        after = min(step + HORIZON, SOME[episode].length)
        for state, images, frame in (
            (batch.state, batch.images, step),
            (batch.next_state, batch.next_images, after),
        ):
            expected = torch.from_numpy(vector_of(episode, frame)).float()
            assert torch.equal(state[row, 0], expected)
            for picture in images.values():
                red, green, _ = picture[row, 0].float().mean((0, 1)).tolist()
                assert (red, green) == pytest.approx((40 * episode, LIT * frame), abs=3)


def test_chunks_are_what_was_executed_and_repeat_the_last_action(folder: Path) -> None:
    batch, places = everything(read(write_replays(folder)))
    for row, (episode, step) in enumerate(places):
        last = SOME[episode].length - 1
        steps = range(step, step + HORIZON)
        expected = np.stack([action_of(episode, min(each, last)) for each in steps])
        np.testing.assert_allclose(batch.action[row].numpy(), expected, rtol=1e-6)
        assert batch.valid[row].tolist() == [each <= last for each in steps]


def test_returns_by_hand(folder: Path) -> None:
    """Sentinel rewards: one of another episode would show by its size."""
    ends = (("success", True), ("failure", False), ("failure", True))
    played = tuple(
        Played(length, outcome, ended, (1000.0**e * np.arange(1, length + 1)).astype(np.float32))  # type: ignore[arg-type]
        for e, (length, (outcome, ended)) in enumerate(zip((5, 2, 4), ends, strict=True))
    )
    data = read(write_replays(folder, played))
    batch, places = everything(data)
    for row, (episode, step) in enumerate(places):
        length, reward = played[episode].length, played[episode].reward
        assert reward is not None
        count = min(HORIZON, length - step)
        earned = sum(DISCOUNT**k * float(reward[step + k]) for k in range(count))
        assert batch.reward[row].item() == pytest.approx(earned, rel=1e-6)
        ended = played[episode].ended and step + count == length
        expected = 0.0 if ended else DISCOUNT**count
        assert batch.discount[row].item() == pytest.approx(expected)
        future = sum(DISCOUNT**k * float(reward[step + k]) for k in range(length - step))
        assert data.training.future[row] == pytest.approx(future, rel=1e-6)


def test_the_end_of_a_success_is_worth_what_it_pays_and_no_more(folder: Path) -> None:
    """y = r exactly; a failure that ran out of steps goes on from the frame where it was left."""
    batch, places = everything(read(write_replays(folder, (Played(4), Played(4, "failure")))))
    found = {
        place: (batch.reward[row].item(), batch.discount[row].item())
        for row, place in enumerate(places)
    }
    assert found[0, 3] == (1.0, 0.0)
    assert found[0, 2] == (pytest.approx(0.9), 0.0)
    assert found[0, 1] == (pytest.approx(0.81), 0.0)
    assert found[0, 0] == (pytest.approx(0.0), pytest.approx(0.9**3))
    assert found[1, 3] == (0.0, pytest.approx(0.9))
    assert found[1, 2] == (0.0, pytest.approx(0.81))
    assert batch.next_state[-1, 0, 0].item() == vector_of(1, 4)[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_split_keeps_successes_and_failures_on_both_sides(folder: Path, seed: int) -> None:
    data = read(write_replays(folder), "train.val_ratio=0.25", f"train.seed={seed}")
    assert data.validation is not None
    for part in data.split:
        assert {data.rewards[episode].success for episode in part} == {True, False}
    assert sorted(data.split[0] + data.split[1]) == list(range(6))
    assert set(data.training.owner.tolist()) == set(data.split[0])
    assert set(data.validation.owner.tolist()) == set(data.split[1])
    assert data.counts() == {
        "demonstration": {"successes": 1, "failures": 0},
        "dp": {"successes": 2, "failures": 3},
    }


def test_the_only_failure_is_learnt_from(folder: Path) -> None:
    data = read(
        write_replays(folder, (Played(4), Played(4), Played(4, "failure"))), "train.val_ratio=0.5"
    )
    assert split_by_outcome(data.rewards, val_ratio=0.5, seed=0)[0] == data.split[0]
    assert 2 in data.split[0]
    assert data.has_failures


def test_statistics_are_of_the_training_episodes(folder: Path) -> None:
    data = read(write_replays(folder), "train.val_ratio=0.25")
    rows = [(e, t) for e in data.split[0] for t in range(SOME[e].length)]
    states, actions = (
        np.stack([of(*row) for row in rows]).astype(np.float32) for of in (vector_of, action_of)
    )
    moving = list(range(6))
    for part, values in ((data.normalizer.state, states), (data.normalizer.action, actions)):
        assert np.flatnonzero(part.frozen.numpy()).tolist() == list(range(6, 14))
        normal = part.normalize(torch.from_numpy(values))[:, moving]
        torch.testing.assert_close(normal.mean(0), torch.zeros(6), atol=1e-3, rtol=0)
        torch.testing.assert_close(normal.std(0, unbiased=False), torch.ones(6), atol=1e-3, rtol=0)


def test_successes_alone_may_be_learnt_from(folder: Path) -> None:
    data = read(write_replays(folder), "policy.lapo.learn_from=successes")
    assert data.split[0] == [0, 1, 4]
    assert not data.has_failures


def test_data_without_a_success_is_refused(folder: Path) -> None:
    write_replays(folder, (Played(4, "failure"), Played(5, "failure")))
    with pytest.raises(ValueError, match="none of the 2 training episodes is a success"):
        read(folder)


def test_plain_episodes_are_demonstrations(tmp_path: Path) -> None:
    write_episodes(tmp_path / "plain", 2, 5)
    data = read(tmp_path / "plain")
    assert not data.has_failures
    assert data.counts() == {"demonstration": {"successes": 2, "failures": 0}}
    batch, places = everything(data)
    for row, (episode, step) in enumerate(places):
        length = 4 + episode
        after = min(step + HORIZON, length)
        assert batch.next_state[row, 0, 0].item() == 100 * episode + after
        assert batch.action[row, 0, 0].item() == 100 * episode + step + 1
        assert (batch.discount[row].item() == 0) == (step + HORIZON >= length)
        paid = DISCOUNT ** (length - 1 - step) if step + HORIZON >= length else 0
        assert batch.reward[row].item() == pytest.approx(paid, abs=1e-7)


def test_episodes_without_a_last_frame_are_refused(tmp_path: Path) -> None:
    """The main layout has none: what the last action led to is not known."""
    write_episodes(tmp_path / "stable", 2, 5)
    convert_layout(tmp_path / "stable", tmp_path / "main", "main")
    with pytest.raises(ValueError, match="has no frame after its last action"):
        read(tmp_path / "main")


def test_folders_with_and_without_rewards_are_refused(folder: Path) -> None:
    write_episodes(folder, 3, 5)
    write_replays(folder, (Played(4), Played(4)))
    with pytest.raises(
        ValueError, match=r"others without, such as episode2\.hdf5: make one replay"
    ):
        read(folder)


def test_a_folder_that_was_not_finished_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_replays(folder)
    claim = {"format_version": 1, "how": {"command": "merge"}}
    for there, told in ((len(SOME), False), (len(SOME) + 3, True)):
        keys = [str(number) for number in range(there)]
        (folder / CLAIM).write_text(json.dumps({**claim, "episodes": keys}))
        with caplog.at_level(logging.WARNING, "twin_train"):
            read(folder)
        assert ("holds 6 of the 9 episodes" in caplog.text) == told


def test_a_store_holds_no_rewards(folder: Path) -> None:
    write_replays(folder)
    config: Any = make_config(folder)
    store = open_or_build_store(folder, None, config.policy.cameras, workers=1, quiet=True)
    with pytest.raises(ValueError, match="give the folder of replay episodes"):
        read_rewards(store.path, store)
