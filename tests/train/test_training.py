"""Training runs: schedules, resuming, refusals, and the command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from training_fixtures import Run, compare_runs, stop_after

from twin_policy.checkpoint import load_checkpoint, save_weights
from twin_policy.diffusion import DiffusionPolicy
from twin_train.commands import train as command
from twin_train.config import load_run_config
from twin_train.log import read_log
from twin_train.loop import Interrupted, LossNotFinite, learning_rate
from twin_train.run import RunConflict


def test_learning_rate_schedule() -> None:
    """G7."""
    rates = [
        learning_rate(step, lr=1e-4, warmup=500, total=10000) for step in (0, 250, 500, 5250, 10000)
    ]
    assert rates == pytest.approx([0, 5e-5, 1e-4, 5e-5, 0])


def test_a_run_leaves_a_whole_checkpoint(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "out")
    assert result.steps == 12
    assert set(result.val) == {"loss", "mean_abs", "max_dim_abs"}
    loaded = load_checkpoint(tmp_path / "out")
    provenance = loaded.provenance
    assert provenance["steps"] == 12
    (data,) = provenance["tasks"].values()
    assert data["episode_seeds"] == [100, 101, 102, 103]
    assert len(data["train_episodes"]) == 3
    assert len(data["val_episodes"]) == 1
    assert data["frozen_action_dims"] == list(range(7, 14))
    assert provenance["backbone_weights"] == {"source": "from scratch"}
    assert provenance["effective_batch_size"] == 8
    assert provenance["validation"] == result.val
    assert loaded.entry().obs_spec.cameras == {
        "head_camera": (24, 32, 3),
        "left_camera": (24, 32, 3),
    }
    steps = [line["step"] for line in read_log(tmp_path / "out" / "log.jsonl")]
    assert steps == [2, 4, 6, 6, 8, 10, 12, 12]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_lowers_the_loss(run: Run, tmp_path: Path, precision: str) -> None:
    settings = ["train.num_steps=100", "train.lr=5e-3", f"train.mixed_precision={precision}"]
    result = run(tmp_path / "out", *settings)
    losses = [line["loss"] for line in read_log(tmp_path / "out" / "log.jsonl") if "loss" in line]
    assert result.train_loss < 0.3 * losses[0]


@pytest.mark.parametrize("stopped_at", [1, 5, 11])
def test_a_resumed_run_is_the_uninterrupted_one(run: Run, tmp_path: Path, stopped_at: int) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", stop=stop_after(stopped_at))
    assert load_checkpoint(tmp_path / "parts").provenance["steps"] == stopped_at
    parts = run(tmp_path / "parts")
    compare_runs(tmp_path / "whole", tmp_path / "parts")
    assert parts.val == whole.val


def test_a_killed_run_goes_on_from_its_last_checkpoint(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "whole")
    calls = iter(range(100))

    def killed() -> bool:
        if next(calls) == 7:
            raise SystemExit("killed")
        return False

    with pytest.raises(SystemExit):
        run(tmp_path / "parts", stop=killed)
    # The kill came between the checkpoints of steps 4 and 8; the log has step 6, half a line more.
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 7, "lo')
    run(tmp_path / "parts")
    compare_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_of_an_older_version_stays_loadable(run: Run, tmp_path: Path) -> None:
    """Asked for again, its config is not written anew with keys that its weights do not know."""
    folder = tmp_path / "out"
    run(folder, "train.num_steps=2")
    policy, provenance = load_checkpoint(folder).policy, load_checkpoint(folder).provenance
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    del stored["policy"]["lapo"], stored["policy"]["encoder"]["early_fusion"]
    (folder / "config.yaml").write_text(yaml.safe_dump(stored, sort_keys=False))
    save_weights(folder, policy, provenance)
    before = (folder / "config.yaml").read_bytes()
    run(folder, "train.num_steps=2")
    assert (folder / "config.yaml").read_bytes() == before
    assert load_checkpoint(folder).provenance["steps"] == 2


def test_a_finished_run_is_not_run_again(run: Run, tmp_path: Path) -> None:
    first = run(tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    again = run(tmp_path / "out")
    assert (again.val, again.train_loss) == (first.val, first.train_loss)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_another_seed_is_another_run(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", "train.seed=1")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_a_folder_of_another_run_is_refused(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "out")
    with pytest.raises(RunConflict, match=r"train\.lr: 0\.001 -> 0\.002\n.*another --out"):
        run(tmp_path / "out", "train.lr=0.002")
    with pytest.raises(RunConflict, match="data_sha256"):
        run(tmp_path / "out", episodes=2)


def test_missing_episodes_name_the_command(run: Run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`twinbench collect toy --episodes 50`"):
        run(tmp_path / "out", data={"toy": tmp_path / "nothing"})
    with pytest.raises(FileNotFoundError, match=r"holds 4 episodes, not 9: .*--episodes 9`"):
        run(tmp_path / "out", episodes=9)
    with pytest.raises(FileNotFoundError, match=r"collect toy --config other --episodes 50`"):
        run(tmp_path / "out", data={"toy": tmp_path / "nothing"}, env_config="other")
    with pytest.raises(ValueError, match="episodes must be at least 1, and is 0"):
        run(tmp_path / "out", episodes=0)


def test_a_loss_that_explodes_stops_the_run(run: Run, tmp_path: Path) -> None:
    with pytest.raises(LossNotFinite, match=r"lower train\.lr"):
        run(tmp_path / "out", "train.lr=1e30")


@pytest.mark.parametrize("interrupted", [True, False])
def test_weights_that_are_not_finite_do_not_replace_good_ones(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    """On Ctrl-C, and at a checkpoint between two log lines."""
    folder, settings = tmp_path / "out", ["train.log_every=100", "train.val_every=100"]
    with pytest.raises(Interrupted):
        run(folder, *settings, stop=stop_after(5))
    files = [folder / "model.safetensors", folder / "training_state" / "latest.safetensors"]
    before = [path.read_bytes() for path in files]

    def compute_loss(policy: DiffusionPolicy, *_: object, **__: object) -> torch.Tensor:
        return sum(weight.sum() for weight in policy.parameters()) * torch.tensor(torch.nan)

    monkeypatch.setattr(DiffusionPolicy, "compute_loss", compute_loss)
    options = {"stop": stop_after(1)} if interrupted else {}
    with pytest.raises(LossNotFinite, match=f"at step {6 if interrupted else 8}: lower"):
        run(folder, *settings, **options)
    assert [path.read_bytes() for path in files] == before


def test_what_a_killed_run_left_is_removed(run: Run, tmp_path: Path) -> None:
    left = [tmp_path / name for name in (".model.7.part.safetensors", ".run.7.part.yaml")]
    left.append(tmp_path / "training_state" / ".latest.7.part.safetensors")
    left[-1].parent.mkdir()
    for path in left:
        path.touch()
    with pytest.raises(Interrupted):
        run(tmp_path, stop=stop_after(1))
    assert not [path for path in left if path.exists()]


def test_one_episode_trains_without_validation(run: Run, tmp_path: Path) -> None:
    assert run(tmp_path / "out", episodes=1).val == {}


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command(
    episodes: Path, config_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["toy", str(config_path), "--data", str(episodes), "--out", str(tmp_path / "out")]
    options = ["--steps", "4", "--seed", "7", "--threads", "1", "--set", "train.batch_size=4"]
    assert command.run(arguments(*words, *options, "--device", "cpu")) == 0
    assert "trained 4 steps" in capsys.readouterr().out
    stored = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert stored["train"]["seed"] == 7
    assert stored["train"]["batch_size"] == 4
    assert (tmp_path / "out" / "loss.png").stat().st_size > 1000
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["steps"] == 4
    files = [path for path in (tmp_path / "out").iterdir() if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    assert before.keys() >= {tmp_path / "out" / "card.md", tmp_path / "out" / "provenance.json"}
    assert command.run(arguments(*words, *options, "--device", "cpu")) == 0
    assert {path: path.read_bytes() for path in files} == before, "its evaluations stay its own"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--episodes", "0"], "--episodes must be at least 1, and is 0"),
        (["--steps", "0"], "--steps must be at least 1, and is 0"),
        (["--threads", "-1"], "--threads must be at least 1, and is -1"),
        (["--device", "gpu"], "unknown device 'gpu'.*auto, cpu, cuda, cuda:N"),
        (["--config", "demo_clen"], "unknown environment config 'demo_clen'.*'demo_clean'"),
        (["--set", "train.checkpoint_every=0"], "checkpoint_every must be at least 1"),
        (["--set", "train.val_windows=0"], "val_windows must be at least 1"),
    ],
)
def test_a_faulty_argument_is_named(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        command.run(arguments("beat_block_hammer", "dp_resnet_demo", *words))


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'beat_block_hamer'.*'beat_block_hammer'"):
        command.run(arguments("beat_block_hamer", "dp_resnet_demo"))


def test_an_unknown_policy_config_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown policy config 'dp_resnt'.*'dp_resnet'"):
        load_run_config("dp_resnt")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_run_config("nowhere.yaml")
    with pytest.raises(ValueError, match=r"dp_resnet\.yaml: unknown key in 'train' 'lrr'"):
        load_run_config("dp_resnet", ["train.lrr=1"])


@pytest.mark.parametrize("name", ["dp_resnet", "dp_resnet_demo"])
def test_shipped_configs_are_read(name: str) -> None:
    config = load_run_config(name)
    assert set(config.policy.cameras) == {"head_camera", "left_camera", "right_camera"}
