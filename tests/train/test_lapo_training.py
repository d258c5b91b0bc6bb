"""Training runs of LAPO: learning, resuming, what is refused, what is left behind."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from lapo_training_fixtures import CONFIG, DISCOUNT, SOME, Played, action_of, write_replays
from safetensors.torch import load_file
from training_fixtures import Run, compare_runs, stop_after

from twin_policy.backbones import VisionBackbone
from twin_policy.checkpoint import load_checkpoint
from twin_policy.lapo_policy import LapoPolicy
from twin_train import lapo_loop
from twin_train.card import CARD
from twin_train.conversion import open_or_build_store
from twin_train.extraction import extract
from twin_train.feature_use import make_tower
from twin_train.features import wanted_of
from twin_train.lapo_loop import LatentCollapse
from twin_train.log import read_log
from twin_train.loop import Interrupted
from twin_train.run import resolve_config
from twin_train.state import STATE

TOWER = """{backbone: clip_vit_b32, layer: 1, pooling: class_token, feature_dim: 6,
    resize_shape: [32, 64], pretrained_backbone_weights: random,
    overrides: {width: 64, layers: 2, head_width: 16, embed_dim: 32}}"""
has_peft = importlib.util.find_spec("peft") and importlib.util.find_spec("transformers")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Card and figure, which cost more than the training."""


@pytest.fixture(autouse=True)
def _no_card(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        for name in ("draw_lapo", "write_card"):
            monkeypatch.setattr(f"twin_train.lapo_run.{name}", lambda *_, **__: None)


@pytest.fixture(scope="session")
def replays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_replays(tmp_path_factory.mktemp("replays"))


@pytest.fixture
def episodes(replays: Path) -> Path:
    return replays


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "lapo_toy.yaml"
    path.write_text(CONFIG)
    return path


def policy_of(folder: Path) -> LapoPolicy:
    policy = load_checkpoint(folder).policy
    assert isinstance(policy, LapoPolicy)
    return policy


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_same_seed_gives_the_same_weights_and_another_one_others(
    run: Run, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, f"train.seed={seed}", "train.num_steps=6")
    compare_runs(tmp_path / "a", tmp_path / "b")
    one, other = weights_of(tmp_path / "a"), weights_of(tmp_path / "c")
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("stopped_at", "gradient"), [(5, "critic"), (7, "critic+vae")])
def test_a_resumed_run_is_the_uninterrupted_one(
    run: Run, tmp_path: Path, stopped_at: int, gradient: str
) -> None:
    """Moments and losses not yet logged included."""
    settings = [f"policy.lapo.encoder_gradient={gradient}", "train.backbone_lr=1e-4"]
    whole = run(tmp_path / "whole", *settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", *settings, stop=stop_after(stopped_at))
    assert load_checkpoint(tmp_path / "parts").provenance["steps"] == stopped_at
    parts = run(tmp_path / "parts", *settings)
    compare_runs(tmp_path / "whole", tmp_path / "parts")
    assert (parts.val, parts.train_loss) == (whole.val, whole.train_loss)
    ours, theirs = (load_file(tmp_path / name / STATE) for name in ("whole", "parts"))
    assert ours.keys() == theirs.keys()
    assert {name.split("/")[0] for name in ours} == {"policy", "optimizer"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_says_what_it_learnt_from(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "out")
    policy, provenance = policy_of(tmp_path / "out"), load_checkpoint(tmp_path / "out").provenance
    assert provenance["replay"] == {
        "sources": {
            "demonstration": {"successes": 1, "failures": 0},
            "dp": {"successes": 2, "failures": 3},
        },
        "has_failures": True,
    }
    assert provenance["lapo"]["discount"] == DISCOUNT
    assert provenance["lapo"]["act_with"] == policy.act_with == "policy"
    assert provenance["validation"] == result.val
    (data,) = provenance["tasks"].values()
    trained = [int(name.removeprefix("episode")[0]) for name in data["train_episodes"]]
    actions = np.stack([action_of(e, t) for e in trained for t in range(SOME[e].length)])
    margin = np.full(actions.shape[1], 0.05)
    margin[[6, 13]] = 0  # Grippers.
    np.testing.assert_allclose(policy.action_low, actions.min(0) - margin, rtol=1e-6)
    np.testing.assert_allclose(policy.action_high, actions.max(0) + margin, rtol=1e-6)
    parameters = provenance["parameters"]
    parts = ("encoder", "critic", "vae", "actor", "targets")
    assert parameters["all"] == sum(parameters[part] for part in parts)
    assert parameters["learning"] == parameters["all"] - parameters["targets"]


def test_learning_tells_successes_from_failures(run: Run, tmp_path: Path) -> None:
    """By state and picture, which are each episode's own: V and Q come near the returns.

    Failures end here: of one that was cut off, V knows only what it itself makes of the last frame.
    """
    write_replays(tmp_path / "toy", tuple(replace(each, ended=True) for each in SOME))
    settings = ["train.num_steps=120", "train.lr=3e-3", "train.val_ratio=0", "train.val_every=120"]
    settings += ["train.weight_decay=0", "train.checkpoint_every=120", "train.val_windows=39"]
    settings += ["policy.encoder.color_jitter=0", "policy.encoder.state_noise=0"]
    settings += [f"policy.lapo.{x}" for x in ("tau=0.1", "beta=0.01", "hidden_dim=32")]
    settings += ["policy.lapo.feature_dim=16"]
    result = run(tmp_path / "out", *settings, data={"toy": tmp_path / "toy"})
    val = result.val
    assert val["v_correlation"] > 0.6
    assert val["v_success"] > val["v_failure"] + 0.2
    assert max(abs(val["v_bias"]), abs(val["q_bias"])) < 0.15
    assert val["active_units"] > 0
    log = read_log(tmp_path / "out" / "log.jsonl")
    losses = [line["vae_loss"] for line in log if "vae_loss" in line]
    assert losses[-1] < 0.3 * losses[0]
    assert all(0 <= line["better"] <= 1 for line in log if "better" in line)


def test_without_failures_the_prior_acts(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_replays(tmp_path / "good", (Played(5), Played(6)))
    with caplog.at_level(logging.WARNING, "twin_train"):
        run(tmp_path / "warned", "train.num_steps=2", data={"toy": tmp_path / "good"})
    assert "the data holds no failures" in caplog.text
    assert "twinbench eval TASK POLICY --rollouts all" in caplog.text
    assert policy_of(tmp_path / "warned").act_with == "prior_mean"
    caplog.clear()
    said = ["train.num_steps=2", "policy.lapo.act_with=policy"]
    run(tmp_path / "said", *said, data={"toy": tmp_path / "good"})
    assert policy_of(tmp_path / "said").act_with == "policy"
    caplog.clear()
    run(tmp_path / "contrast", "train.num_steps=2")
    assert "no failures" not in caplog.text


def test_a_collapsed_latent_stops_a_training_that_wants_an_actor(run: Run, tmp_path: Path) -> None:
    settings = ["policy.lapo.beta=1e4", "policy.lapo.latent_check_after=20", "train.lr=1e-2"]
    settings += ["train.num_steps=30", "train.val_every=10"]
    with pytest.raises(LatentCollapse, match=r"at step 20: .*beta is 10000: lower it"):
        run(tmp_path / "out", *settings)
    assert load_checkpoint(tmp_path / "out").provenance["steps"] == 20
    result = run(tmp_path / "bc", *settings, "policy.lapo.behaviour=bc")
    assert result.steps == 30
    assert result.val["active_units"] == 0


def test_a_run_that_collapsed_at_its_end_has_not_passed_when_asked_again(
    run: Run, tmp_path: Path
) -> None:
    settings = ["policy.lapo.beta=1e4", "policy.lapo.latent_check_after=6", "train.lr=1e-2"]
    settings += ["train.num_steps=20", "train.val_every=20"]
    for _ in range(2):
        with pytest.raises(LatentCollapse, match="at step 20"):
            run(tmp_path / "out", *settings)


def test_losses_of_a_resumed_run_are_where_the_others_will_be(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another device than the CPU, for which torch's `meta` stands here."""
    with pytest.raises(Interrupted):
        run(tmp_path / "out", stop=stop_after(5))
    found: list[torch.device] = []
    restore = lapo_loop._Run.restore

    def watched(self: lapo_loop._Run) -> None:
        cpu, self.device = self.device, torch.device("meta")
        restore(self)
        found.extend(value.device for values in self._recent.values() for value in values)
        self.device = cpu
        raise Interrupted

    monkeypatch.setattr(lapo_loop._Run, "restore", watched)
    with pytest.raises(Interrupted):
        run(tmp_path / "out")
    assert {device.type for device in found} == {"meta"}


def test_returns_beyond_the_bounds_are_told(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    costly = (
        Played(5, reward=np.array([-1, 0, 0, 0, 1], np.float32)),
        Played(6, "failure", reward=np.full(6, -0.5, np.float32)),
        Played(6),
        Played(5, "failure"),
    )
    write_replays(tmp_path / "costly", costly)
    with caplog.at_level(logging.WARNING, "twin_train"):
        run(tmp_path / "told", "train.num_steps=1", data={"toy": tmp_path / "costly"})
        assert "clamped to policy.lapo.min_v 0 and max_v 1" in caplog.text
        caplog.clear()
        wide = ["train.num_steps=1", "policy.lapo.min_v=-4"]
        run(tmp_path / "wide", *wide, data={"toy": tmp_path / "costly"})
        run(tmp_path / "sparse", "train.num_steps=1")
    assert "clamped" not in caplog.text


def test_cloned_behaviour_trains_no_actor(run: Run, tmp_path: Path) -> None:
    for name, steps in (("one", 1), ("all", 12)):
        run(tmp_path / name, "policy.lapo.behaviour=bc", f"train.num_steps={steps}")
    one, other = weights_of(tmp_path / "one"), weights_of(tmp_path / "all")
    same = {name for name in one if torch.equal(one[name], other[name])}
    actors = {name for name in one if name.startswith(("nets.actor", "nets.targets.actor"))}
    assert actors <= same
    assert not any(name.startswith(("nets.vae", "nets.critic", "fusion")) for name in same)
    assert policy_of(tmp_path / "all").act_with == "prior_mean"
    assert "actor_loss" not in read_log(tmp_path / "all" / "log.jsonl")[0]


def test_losses_from_stored_features_are_those_of_the_live_tower(
    run: Run, config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all frames, the last one of each episode too."""
    write_replays(tmp_path / "toy")
    values = yaml.safe_load(CONFIG)
    values["policy"]["encoder"] = yaml.safe_load(TOWER)
    config_path.write_text(yaml.safe_dump(values))
    data = {"data": {"toy": tmp_path / "toy"}}
    run(tmp_path / "live", **data)

    cameras = {"head_camera": (24, 32), "left_camera": (12, 16)}
    store = open_or_build_store(tmp_path / "toy", None, cameras, workers=1, quiet=True)
    encoder = policy_of(tmp_path / "live").config.encoder
    tower = make_tower(encoder, seed=0)
    wanted = wanted_of(encoder, tower)
    extract(store, tower, held={wanted.layer: (wanted.readout,)}, dtype="fp32", quiet=True)
    with monkeypatch.context() as patched:
        patched.setattr(VisionBackbone, "encode", lambda *_: pytest.fail("the tower ran"))
        run(tmp_path / "stored", "train.features=auto", **data)
    ours, theirs = (read_log(tmp_path / name / "log.jsonl") for name in ("stored", "live"))
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    used = load_checkpoint(tmp_path / "stored").provenance["features"]["toy"]
    assert used["dtype"] == "fp32"


@pytest.mark.skipif(not has_peft, reason="peft is not installed")
def test_low_rank_adapters_learn(run: Run, config_path: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(CONFIG)
    values["policy"]["encoder"] = yaml.safe_load(TOWER) | {"tuning": "lora"}
    config_path.write_text(yaml.safe_dump(values))
    run(tmp_path / "one", "train.num_steps=1", "train.lr=1e-2")
    run(tmp_path / "more", "train.num_steps=6", "train.lr=1e-2")
    one, other = weights_of(tmp_path / "one"), weights_of(tmp_path / "more")
    towers = [name for name in one if "backbones" in name]
    assert any(not torch.equal(one[name], other[name]) for name in towers)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("grad_accum_steps", "2"),
        ("noise_draws", "4"),
        ("mixed_precision", "bf16"),
        ("freeze_backbone", "true"),
        ("ema", "{schedule: ratio}"),
        ("fine_tuning", "{num_steps: 2, lr: 1e-4}"),
        ("noop_filter_rad", "0.01"),
    ],
)
def test_settings_of_diffusion_are_refused(
    run: Run, tmp_path: Path, setting: str, value: str
) -> None:
    with pytest.raises(ValueError, match=f"train.{setting} is of diffusion policies"):
        run(tmp_path / "out", f"train.{setting}={value}")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("drawn")
def test_card_and_figure(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "out", name="lapo_toy")
    card = (tmp_path / "out" / CARD).read_text()
    provenance = load_checkpoint(tmp_path / "out").provenance
    parameters = provenance["parameters"]
    for said in (
        "# lapo_toy: toy",
        "12 iterations of 8 chunks",
        "It acts by the actor's latent actions",
        "| demonstration | 1 | 0 |",
        "| dp | 2 | 3 |",
        f"| active latent units | {result.val['active_units']:.0f} of 4 |",
        f"| correlation of V and return | {result.val['v_correlation']:.2f} |",
        f"| distance from successes' actions, mean | {result.val['mean_abs']:.4f} rad |",
        f"{parameters['critic']:,} | {parameters['vae']:,} | {parameters['actor']:,}",
        f"bash eval.sh toy lapo --checkpoint {tmp_path / 'out'}",
    ):
        assert said in card, said
    assert "denois" not in card
    picture = cv2.imread(str(tmp_path / "out" / "loss.png"))
    assert picture is not None
    assert picture.std() > 5


def test_the_shipped_config_is_sound() -> None:
    from twin_train.config import load_run_config

    config = resolve_config(load_run_config("lapo_small")).policy
    assert config.lapo is not None
    assert config.normalizer.mode == "zscore"
