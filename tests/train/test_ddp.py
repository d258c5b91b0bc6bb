"""Several processes of one run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_fixtures import Run, stop_after

from twin_train.log import read_log
from twin_train.loop import Interrupted
from twin_train.processes import device_of


def in_processes(count: int, work: Callable[[int], None]) -> None:
    """Runs `work(rank)` in processes that find each other as those of `torchrun` do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(rank: int) -> None:
        os.environ |= {
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            **{"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        }
        # A forked process has none of its parent's threads to wait for.
        torch.set_num_threads(1)
        work(rank)
        torch.distributed.destroy_process_group()

    # Forked: they have torch already.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=start, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * count


def compare_closely(one: Path, other: Path) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=1e-5, msg=name)
    logs = [read_log(folder / "log.jsonl") for folder in (one, other)]
    for mine, its in zip(*logs, strict=True):
        assert its == pytest.approx(mine, rel=1e-5)


def test_two_processes_do_what_one_does_that_accumulates_two_batches(
    run: Run, tmp_path: Path
) -> None:
    settings = ["train.num_steps=4", "train.grad_clip_norm=1.0", "train.batch_size=4"]
    stages = ["train.freeze_backbone=true", "train.fine_tuning={num_steps: 2, lr: 1e-3}"]
    run(tmp_path / "one", *settings, *stages, "train.grad_accum_steps=2")

    def train(rank: int) -> None:
        # A signal reaches one of the processes; both stop at the same step, and both go on.
        stop = stop_after(3) if rank == 1 else lambda: False
        with pytest.raises(Interrupted):
            run(tmp_path / "two", *settings, *stages, stop=stop)
        run(tmp_path / "two", *settings, *stages)

    in_processes(2, train)
    compare_closely(tmp_path / "one", tmp_path / "two")


def test_a_gpu_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="cuda:0 is one GPU for 2 processes: use --device cuda"):
        device_of(torch.device("cuda:0"), named="cuda:0")
    with pytest.raises(ValueError, match="2 processes need as many GPUs, and there are 1"):
        device_of(torch.device("cuda"), named="auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(torch.device("cuda"), named="auto") == torch.device("cuda:1")
    assert device_of(torch.device("cpu"), named="cpu") == torch.device("cpu")


@pytest.mark.e2e
def test_the_command_starts_processes_and_stops_them(
    episodes: Path, config_path: Path, tmp_path: Path
) -> None:
    """By `--processes`, as a user would; a SIGTERM to the launcher saves, and a rerun resumes."""
    words = ["train", "toy", str(config_path), "--data", str(episodes), "--device", "cpu"]
    words += ["--out", str(tmp_path / "out"), "--processes", "2", "--threads", "1"]
    words += ["--set", "train.num_steps=100000"]
    command = [sys.executable, "-m", "twin_eval.cli", *words]
    log = tmp_path / "out" / "log.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        for line in started.stderr:
            if "training:" in line or len(read_log(log)) > 2:
                started.send_signal(signal.SIGTERM)
                break
        rest = started.stderr.read()
    assert "stopping after this step, then saving" in rest
    assert (tmp_path / "out" / "training_state" / "latest.safetensors").is_file()
