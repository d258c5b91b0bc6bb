"""What a training run can be told: accumulation, precision, stages; and what it leaves behind."""

from __future__ import annotations

import gc
import importlib.machinery
import json
import sys
import types
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_fixtures import Run, compare_runs, stop_after

from twin_policy.checkpoint import load_checkpoint
from twin_policy.diffusion import DiffusionPolicy
from twin_train import loop
from twin_train import run as runs
from twin_train.config import FineTuningConfig, Stage, TrainConfig
from twin_train.figure import draw_losses
from twin_train.log import read_log, tag
from twin_train.loop import NOISE_STREAM, Interrupted, cut_piece, seeded_generator
from twin_train.run import RunConflict

STATE = Path("training_state") / "latest.safetensors"


def test_accumulated_gradients_are_those_of_the_mean_loss(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare(_: object, step: int, mine: Any) -> None:
        parameters = dict(mine.policy.named_parameters())
        left = {name: parameter.grad.clone() for name, parameter in parameters.items()}
        losses = []
        for index in range(2):
            windows = [mine.tasks["toy"].training]
            ((batch, _share),) = cut_piece(windows, 2 * step + index, batch_size=4, seed=0)
            noise = seeded_generator(0, NOISE_STREAM, step, index)
            losses.append(mine.policy(batch, noise, noise_draws=2))
        wanted = torch.autograd.grad(torch.stack(losses).mean(), list(parameters.values()))
        for (name, got), gradient in zip(left.items(), wanted, strict=True):
            torch.testing.assert_close(got, gradient, msg=name)
        compared.append(step)

    monkeypatch.setattr(loop, "_update", compare)
    settings = ["train.batch_size=4", "train.grad_accum_steps=2", "train.num_steps=2"]
    run(tmp_path / "out", *settings)
    assert compared == [0, 1]


STAGES = (
    "train.num_steps=4",
    "train.freeze_backbone=true",
    "train.fine_tuning={num_steps: 4, lr: 1e-3, backbone_lr: 1e-4, lr_warmup_steps: 1}",
)


def test_the_second_stage_lets_the_backbones_learn_at_their_own_rate(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    update = loop._update

    def note(optimizer: Any, step: int, mine: Any) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])
        update(optimizer, step, mine)

    monkeypatch.setattr(loop, "_update", note)
    seen = []
    for stopped_at in (0, 4):
        with pytest.raises(Interrupted):
            run(tmp_path / "out", *STAGES, stop=stop_after(stopped_at))
        seen.append(load_file(tmp_path / "out" / STATE))
    start, first = seen
    assert run(tmp_path / "out", *STAGES).steps == 8
    last = load_file(tmp_path / "out" / STATE)
    backbones = {name for name in start if name.startswith("policy/encoder.backbones")}
    rest = {name for name in start if name.startswith("policy/head")}
    assert backbones
    assert all(torch.equal(start[name], first[name]) for name in backbones)
    assert not any(torch.equal(start[name], first[name]) for name in rest)
    assert not any(torch.equal(first[name], last[name]) for name in backbones | rest)
    # A warm-up of two steps, then one of a single step, and half a cosine each.
    half = [0.0, 5e-4, 1e-3, 5e-4]
    assert [lr for (lr,) in rates[:4]] == pytest.approx(half)
    assert [lr for lr, _ in rates[4:]] == pytest.approx([0, 1e-3, 7.5e-4, 2.5e-4])
    assert [lr for _, lr in rates[4:]] == pytest.approx([0, 1e-4, 7.5e-5, 2.5e-5])


@pytest.mark.parametrize("stopped_at", [3, 4, 6])
def test_stages_and_accumulation_are_resumed_exactly(
    run: Run, tmp_path: Path, stopped_at: int
) -> None:
    settings = [*STAGES, "train.grad_accum_steps=2", "train.grad_clip_norm=1.0"]
    run(tmp_path / "whole", *settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", *settings, stop=stop_after(stopped_at))
    run(tmp_path / "parts", *settings)
    compare_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_frozen_backbone_has_no_rate() -> None:
    with pytest.raises(ValueError, match=r"backbone_lr is 1e-05, but freeze_backbone.*set fine_t"):
        TrainConfig(num_steps=1, freeze_backbone=True, backbone_lr=1e-5)
    with pytest.raises(ValueError, match="num_steps must be at least 1, and is 0"):
        FineTuningConfig(num_steps=0, lr=1e-4)


def test_a_constant_rate_warms_up_too() -> None:
    stage = Stage(0, 100, 1.0, None, lr_warmup_steps=10, freeze_backbone=False)
    scales = [loop.learning_rate_scale(step, stage, "constant_with_warmup") for step in (0, 5, 99)]
    assert scales == [0, 0.5, 1]


def test_fp16_is_refused_on_a_cpu(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mixed_precision fp16 needs a GPU.*use bf16"):
        run(tmp_path / "out", "train.mixed_precision=fp16")


@pytest.fixture
def scaled_loss(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A loss scaler as fp16 has it, on the CPU, which overflows at first; the steps it skipped."""
    from twin_train import run as module

    skipped = []
    opened, update = module.open_accelerator, loop._update

    def open_scaled(*args: Any, **options: Any) -> Any:
        accelerator = opened(*args, **options)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**124, growth_interval=3)
        return accelerator

    def note(optimizer: Any, step: int, mine: Any) -> None:
        weights = [value.clone() for value in mine.policy.parameters()]
        average = [value.clone() for value in mine.average.parameters()]
        # From here on, after the network is wrapped: autocasting is not what is tested.
        mine.accelerator.native_amp, mine.accelerator.state._mixed_precision = True, "fp16"
        update(optimizer, step, mine)
        skipped.append(optimizer.step_was_skipped)
        for network, before in ((mine.policy, weights), (mine.average, average)):
            same = map(torch.equal, network.parameters(), before)
            # At rate 0, in the first step, the weights stay; else a step changes some of them.
            assert all(same) == (skipped[-1] or step == 0)

    def large_loss(policy: DiffusionPolicy, *args: Any, **options: Any) -> torch.Tensor:
        return 1000 * policy.compute_loss(*args, **options)

    monkeypatch.setattr(DiffusionPolicy, "forward", large_loss)
    monkeypatch.setattr(module, "open_accelerator", open_scaled)
    monkeypatch.setattr(loop, "_update", note)
    return skipped


def test_a_step_that_overflows_changes_nothing(
    run: Run, tmp_path: Path, scaled_loss: list[bool]
) -> None:
    settings = ["train.grad_clip_norm=10.0"]
    run(tmp_path / "whole", *settings)
    assert True in scaled_loss
    assert False in scaled_loss
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", *settings, stop=stop_after(5))
    run(tmp_path / "parts", *settings)
    compare_runs(tmp_path / "whole", tmp_path / "parts")
    assert scaled_loss[:12] == scaled_loss[12:]


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The sampled-action errors that the next validations find."""
    coming: list[float] = []

    def validate(*_: object) -> dict[str, float]:
        return {"loss": 1.0, "mean_abs": coming.pop(0), "max_dim_abs": 1.0}

    monkeypatch.setattr(loop, "validate", validate)
    return coming


def test_the_best_policy_on_validation_is_kept(
    run: Run, tmp_path: Path, errors: list[float]
) -> None:
    folder, settings = tmp_path / "out", ["train.val_every=2"]
    errors += [0.3, 0.1, 0.2, 0.25, 0.15, float("nan")]
    with pytest.raises(Interrupted):
        run(folder, *settings, stop=stop_after(7))
    result = run(folder, *settings)
    assert result.best == {"step": 4, "mean_abs": 0.1}
    best, last = load_checkpoint(folder / "best"), load_checkpoint(folder)
    assert (best.provenance["steps"], last.provenance["steps"]) == (4, 12)
    assert best.provenance["validation"]["mean_abs"] == 0.1
    assert last.provenance["best"] == {"step": 4, "mean_abs": 0.1}


def test_best_weights_are_those_of_their_step(
    run: Run, tmp_path: Path, errors: list[float]
) -> None:
    settings = ["train.val_every=4"]
    errors += [0.1, 0.2, 0.3]
    run(tmp_path / "whole", *settings)
    errors += [0.1]
    with pytest.raises(Interrupted):
        run(tmp_path / "four", *settings, stop=stop_after(4))
    kept, wanted = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "whole" / "best", tmp_path / "four")
    )
    assert all(torch.equal(kept[name], wanted[name]) for name in wanted)


def test_without_validation_there_is_no_best(run: Run, tmp_path: Path) -> None:
    assert run(tmp_path / "out", episodes=1).best == {}
    assert not (tmp_path / "out" / "best").exists()


def test_events_hold_the_steps_of_the_log_once(run: Run, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    calls = iter(range(100))

    def killed() -> bool:
        if next(calls) == 7:
            raise SystemExit
        return False

    with pytest.raises(SystemExit):
        run(tmp_path / "out", stop=killed)  # step 6 is logged, step 4 is saved
    run(tmp_path / "out")
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    log = read_log(tmp_path / "out" / "log.jsonl")
    for key in ("loss", "lr", "val_mean_abs"):
        wanted = [(line["step"], line[key]) for line in log if key in line]
        found = [(event.step, event.value) for event in events.Scalars(tag(key))]
        assert found == [(step, pytest.approx(value)) for step, value in wanted]


def test_wandb_that_is_missing_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"train\.wandb is 'toys'.*pip install 'twinbench\[wandb"):
        run(tmp_path / "out", "train.wandb=toys")
    assert not (tmp_path / "out").exists()


def test_wandb_gets_the_figures_and_goes_on_with_its_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, logged = [], []

    class Opened:
        def log(self, values: dict[str, float], *, step: int) -> None:
            logged.append((step, values))

        def finish(self) -> None: ...

    fake = types.ModuleType("wandb")
    fake.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    fake.init = lambda **options: opened.append(options) or Opened()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(Interrupted):
        run(tmp_path / "out", "train.wandb=toys", stop=stop_after(4))
    # The project is no part of what makes a run the same.
    run(tmp_path / "out", "train.wandb=other")
    assert [each["project"] for each in opened] == ["toys", "other"]
    assert opened[0]["id"] == opened[1]["id"]
    assert [step for step, _ in logged] == [2, 4, 6, 6, 8, 10, 12, 12]
    assert set(logged[0][1]) == {"train/loss", "train/lr"}


def test_batches_per_step_make_a_run_the_same(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "out", "train.num_steps=2")
    with pytest.raises(RunConflict, match="grad_accum_steps x processes: 1 -> 2"):
        run(tmp_path / "out", "train.num_steps=2", "train.grad_accum_steps=2")
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["processes"] == 1


def test_a_figure_marks_the_best_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    labels: dict[str, list[float]] = {}
    plot = Axes.plot

    def note(axes: Axes, steps: Any, values: Any, **options: Any) -> Any:
        labels[options.get("label", "")] = [steps] if isinstance(steps, float) else list(steps)
        return plot(axes, steps, values, **options)

    monkeypatch.setattr(Axes, "plot", note)
    log = [{"step": step, "loss": 1 / step, "lr": 0.1} for step in range(1, 60)]
    for step, error in ((20, 0.3), (40, 0.1), (59, 0.2)):
        values = {"val_loss": error, "val_mean_abs": error, "val_max_dim_abs": 2 * error}
        log.append({"step": step, **values, "val_mean_abs/toy": error})
    draw_losses(log, tmp_path / "loss.png", title="toy", stages=[30])
    assert labels["best: 0.1000 rad, step 40"] == [40]
    assert labels["toy"] == labels["mean"] == [20, 40, 59]
    assert len(labels["training"]) > 50
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_the_card_is_measured_when_what_was_trained_is_gone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be no room for two: what is measured is read from the checkpoint."""
    build, trained = runs.build_policy, []

    def remember(*args: Any) -> Any:
        policy = build(*args)
        trained.append(weakref.ref(policy))
        return policy

    def look(*_: Any, **__: Any) -> None:
        gc.collect()
        assert [each() for each in trained] == [None]
        looked.append(True)

    looked: list[bool] = []
    monkeypatch.setattr(runs, "build_policy", remember)
    monkeypatch.setattr(runs, "write_card", look)
    run(tmp_path / "out", "train.num_steps=2")
    assert looked
