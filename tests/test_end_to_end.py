"""The main job in miniature: demonstrations, a policy, its evaluation beside two references."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

POLICIES = ["dp_resnet", "expert_replay", "hold_still"]
TRAINING = "--steps 120 --set train.val_every=60 --set train.val_windows=4"
"""A policy of fewer steps throws its arms about in wide swings, which take minutes to simulate."""


def run_demo(cwd: Path) -> str:
    command = [sys.executable, "-m", "twin_eval.cli", "demo", "--workers", "2", "--videos", "1"]
    command += ["--demonstrations", "3", "--episodes", "2", "--train-options", TRAINING]
    done = subprocess.run(command, cwd=cwd, env={**os.environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    output = run_demo(folder)
    table = output[output.rindex("\n== ") :]
    assert all(f"| {policy}" in table for policy in POLICIES)
    return folder


def read_summary(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "outputs" / "demo" / "summary.csv").open(newline="") as stream:
        return {row["policy"]: row for row in csv.DictReader(stream)}


def test_every_part_leaves_its_result(finished: Path) -> None:
    outputs = finished / "outputs"
    data = outputs / "data" / "beat_block_hammer" / "demo_clean"
    assert len(list((data / "data").glob("episode*.hdf5"))) == 3
    checkpoint = outputs / "checkpoints" / "beat_block_hammer" / "dp_resnet_demo"
    assert list(checkpoint.glob("*.safetensors"))
    for policy in POLICIES:
        folder = outputs / "demo" / "eval" / policy
        assert len(list((folder / "videos").glob("*.mp4"))) == 1
    assert (outputs / "demo" / "report.html").exists()
    timings = json.loads((outputs / "demo" / "timings.json").read_text())
    assert list(timings) == ["collect", "train", *(f"eval {policy}" for policy in POLICIES)]
    assert not list(outputs.rglob("*.part*"))


def test_ceiling_and_floor_are_where_they_belong(finished: Path) -> None:
    summary = read_summary(finished)
    assert sorted(summary) == POLICIES
    assert {row["n"] for row in summary.values()} == {"2"}
    assert {row["errors"] for row in summary.values()} == {"0"}
    assert float(summary["expert_replay"]["rate"]) == 1.0
    assert float(summary["hold_still"]["rate"]) == 0.0


def test_evaluation_never_sees_a_training_seed(finished: Path) -> None:
    outputs = finished / "outputs"
    data = outputs / "data" / "beat_block_hammer" / "demo_clean"
    trained_on = {int(seed) for seed in (data / "seed.txt").read_text().split()}
    with (outputs / "demo" / "eval" / "dp_resnet" / "episodes.csv").open(newline="") as stream:
        evaluated = {int(row["seed"]) for row in csv.DictReader(stream)}
    assert len(trained_on) == 3
    assert len(evaluated) == 2
    assert trained_on.isdisjoint(evaluated)


def test_second_run_does_nothing_again(finished: Path) -> None:
    kept = [*finished.rglob("journal.jsonl"), *finished.rglob("model.safetensors")]
    kept += finished.rglob("*.hdf5")
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert len(before) == 3 + 2 + 3  # the last weights and the best ones
    run_demo(finished)
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_a_shared_policy_does_to_the_bit_what_one_in_each_worker_does(finished: Path) -> None:
    tables = []
    for inference in ("worker", "shared"):
        command = [sys.executable, "-m", "twin_eval.cli", "eval", "beat_block_hammer", "dp_resnet"]
        command += ["--episodes", "2", "--workers", "2", "--inference", inference, "--no-report"]
        command += ["--checkpoint", "outputs/checkpoints/beat_block_hammer/dp_resnet_demo"]
        command += ["--videos", "off", "--out", f"outputs/eval/{inference}"]
        subprocess.run(command, cwd=finished, check=True, capture_output=True)
        with (finished / "outputs" / "eval" / inference / "episodes.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        tables.append([(row["outcome"], row["steps"], row["actions_digest"]) for row in rows])
    assert tables[0] == tables[1]
    assert len({digest for _, _, digest in tables[0]}) == 2
