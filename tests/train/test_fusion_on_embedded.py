"""From demonstrations with point clouds to a policy that acts on a distilled encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from twin_env import load_env_config, make_env
from twin_env.episodes import list_episodes, read_episode
from twin_eval.cli import main
from twin_policy import deploy
from twin_policy.aligned import AlignedEncoder

pytestmark = pytest.mark.simulator

TASK, CONFIG = "beat_block_hammer", "demo_clean_clouds"
TEACHER = {"width": 24, "depth": 1, "heads": 2, "groups": 16, "group_size": 8, "group_width": 16}
ON_CPU = ["--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations with clouds, a small teacher's embeddings, and what was distilled."""
    folder = tmp_path_factory.mktemp("fusion")
    coarse = yaml.safe_dump({"data_type": {"pointcloud": True}, "save_freq": 60})
    (folder / f"{CONFIG}.yml").write_text(coarse)
    data = folder / "demonstrations"
    words = ["collect", TASK, "--config", str(folder / f"{CONFIG}.yml"), "--out", str(data)]
    assert main([*words, "--episodes", "2", "--workers", "1"]) == 0
    shape = TEACHER | {"embedding_dim": 12, "points": 64}
    settings = [word for key, value in shape.items() for word in ("--set", f"{key}={value}")]
    words = ["teacher", "extract", str(data), "--weights", "random", *settings]
    assert main([*words, *ON_CPU]) == 0
    words = ["distill", TASK, "small", "--data", str(data), "--out", str(folder / "distilled")]
    words += ["--set", "student.dim=16", "--steps", "4", "--set", "train.val_every=4"]
    # After four steps it may well be found to have learnt nothing.
    assert main([*words, *ON_CPU]) in (0, 1)
    return folder


def test_the_shipped_config_is_the_clean_scene_with_clouds() -> None:
    clean, clouds = load_env_config("demo_clean"), load_env_config(CONFIG)
    assert clouds["data_type"].pop("pointcloud")
    assert not clean["data_type"].pop("pointcloud")
    assert clouds == clean


def test_the_encoder_knows_its_models_and_teacher(work: Path) -> None:
    models = [each.name for each in AlignedEncoder.load(work / "distilled").config.models]
    assert models == ["croco", "vggt", "dinov3", "da3"]
    found = json.loads((work / "distilled" / "metrics.json").read_text())
    episodes = [read_episode(path) for path in list_episodes(work / "demonstrations")]
    assert sum(found["frames"].values()) == sum(each.n_transitions for each in episodes)


def test_what_was_trained_on_it_acts(work: Path) -> None:
    out, scheme = work / "policy", "dual_stream_tokens"
    words = ["train", TASK, "fusion_dp_small", "--data", str(work / "demonstrations")]
    words += ["--out", str(out), "--steps", "2", "--set", f"policy.encoder.fusion.scheme={scheme}"]
    words += ["--set", f"policy.encoder.fusion.aligned={work / 'distilled'}"]
    assert main([*words, *ON_CPU]) == 0
    agent = deploy.get_model({"checkpoint_path": str(out), "device": "cpu", "task_name": TASK})
    env = make_env(TASK)
    env.setup_demo(seed=100000, **load_env_config("demo_clean"))
    for _ in range(2):
        deploy.eval(env, agent, env.get_obs())
    assert env.take_action_cnt == 2 * agent.n_action_steps
    env.close_env()
