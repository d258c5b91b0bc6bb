"""Whole evaluations on the fake simulator, in processes of their own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCRIPTED = str(HERE / "policies" / "scripted")
MAY_DIFFER = ("session", "attempts", "video", "wall_s", "cpu_s")
BATCHED = str(HERE / "policies" / "batched")


def start(
    cwd: Path, *words: str, policy: str = SCRIPTED, workers: int = 1, episodes: int = 12
) -> subprocess.Popen[str]:
    """`twinbench eval reach_number POLICY`, with its results in `run`."""
    what = ("reach_number", policy, "--out", "run")
    return start_eval(cwd, *what, "--workers", str(workers), "--episodes", str(episodes), *words)


def start_eval(cwd: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "twin_eval.cli", "eval", *words]
    if "--provider" not in words:
        command += ["--provider", "fake_simulator"]
    if "--videos" not in words:
        command += ["--videos", "0"]
    if "--report" in words:  # Figures and page take longer than all the rest.
        command.remove("--report")
    else:
        command += ["--no-report"]
    if "--suite" not in words:
        command += ["--config", str(ROOT / "task_configs" / "demo_clean.yml")]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit status, and all that it said."""
    with process:
        out, err = process.communicate(timeout=180)
    return process.returncode, out + err


def evaluate(
    cwd: Path, *words: str, policy: str = SCRIPTED, workers: int = 1, episodes: int = 12
) -> tuple[int, str]:
    cwd.mkdir(exist_ok=True)
    return finish(start(cwd, *words, policy=policy, workers=workers, episodes=episodes))


def wait_for_episodes(process: subprocess.Popen[str], journal: Path, episodes: int) -> None:
    """Until the journal has so many."""
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b'"kind": "episode"') < episodes:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def rows(folder: Path, name: str = "run/episodes.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def untimed(folder: Path, name: str = "run/episodes.csv") -> list[dict[str, str]]:
    """The rows without what may differ between two runs of the same thing."""
    may_differ = {"session", "attempts", "video", "wall_s", "cpu_s"}
    return [
        {
            k: v
            for k, v in row.items()
            if k not in may_differ and not k.endswith(("_wall_s", "_cpu_s"))
        }
        for row in rows(folder, name)
    ]
