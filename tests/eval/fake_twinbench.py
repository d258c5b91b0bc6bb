"""Stands in for `twinbench` in tests of sweeps: the same words and files, and no work.

Each episode is as `episode.json` says. A run whose settings have `train.fault` goes wrong:
`prepare`, `train`, `save`, `crash`, `plan` or `evaluate` says where. One with `train.waits` waits
after its first step until it is stopped or a file `go` is there.
"""

from __future__ import annotations

import itertools
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

TOTAL = 2
stopped: list[int] = []


def main(words: list[str]) -> int:
    with Path("calls.txt").open("a") as calls:
        calls.write(" ".join(words) + "\n")
    command, *rest = words
    if command == "collect":
        return collect(rest[0], options(rest))
    if command == "plan":
        return 0
    if command == "eval":
        return evaluate(rest[0], rest[1], options(rest))
    assert command == "train-many"
    runs = json.loads(Path(rest[0]).read_text())["runs"]
    if "--plan" in rest:
        print(json.dumps(plan(runs)))
        return 0
    chosen = rest[rest.index("--only") + 1 :]
    runs = [run for run in runs if run["name"] in chosen]
    report = Path(options(rest)["--report"])
    return prepare(runs, report) if "--prepare" in rest else train(runs, report)


def options(words: list[str]) -> dict[str, str]:
    return dict(itertools.pairwise(words))


def collect(task: str, given: dict[str, str]) -> int:
    folder = Path("outputs/data") / task / given["--config"] / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(int(given["--episodes"])):
        (folder / f"episode{number}.hdf5").touch()
    return 0


def plan(runs: list[dict[str, Any]]) -> dict[str, Any]:
    towers: dict[str, list[str]] = {}
    described = []
    for run in runs:
        given = run["set"]
        error = "its weights are missing" if given.get("train.fault") == "plan" else None
        features = given.get("train.features") is not None
        if features:
            towers.setdefault(run["task"], []).append(run["name"])
        described.append(
            {
                "name": run["name"],
                "features": features,
                "live_backbone": given.get("policy.live", "none" if features else "frozen"),
                "total_steps": None if error else TOTAL,
                "steps_done": steps_of(Path(run["out"])),
                "batch_windows": 4,
                "learning_parameters": 1000,
                "weights": "random weights",
                "backbone": "toy",
                "error": error,
            }
        )
    return {
        "towers": [
            {
                "task": task,
                "backbone": "toy",
                "weights": "random weights",
                "layers": [0, 1],
                "readouts": ["class_token"],
                "runs": names,
                "pictures": 60,
                "bytes": 5000,
                "ready": Path(f"features-{task}").exists(),
            }
            for task, names in towers.items()
        ],
        "runs": described,
    }


def steps_of(checkpoint: Path) -> int:
    path = checkpoint / "provenance.json"
    return int(json.loads(path.read_text())["steps"]) if path.exists() else 0


def say(report: Path, run: dict[str, Any], state: str, reason: str = "") -> None:
    with report.open("a") as stream:
        values = {"name": run["name"], "state": state, "reason": reason}
        stream.write(json.dumps({**values, "seconds": 0.1, "steps": TOTAL}) + "\n")


def prepare(runs: list[dict[str, Any]], report: Path) -> int:
    status = 0
    for run in runs:
        Path(f"features-{run['task']}").touch()
        if run["set"].get("train.fault") == "prepare":
            say(report, run, "failed", "a picture is damaged")
            status = 1
        else:
            say(report, run, "done")
    return status


def train(runs: list[dict[str, Any]], report: Path) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopped.append(number))
    status = 0
    for run in runs:
        fault = run["set"].get("train.fault")
        if fault == "crash":
            print("Segmentation fault, or so")
            return 139
        if fault == "train" and not Path("mended").exists():
            say(report, run, "failed", "the loss is not finite")
            status = 1
            continue
        folder = Path(run["out"])
        folder.mkdir(parents=True, exist_ok=True)
        for step in range(steps_of(folder) + 1, TOTAL + 1):
            save(folder, step, fails=fault == "save" and step == TOTAL)
            while run["set"].get("train.waits") and not stopped and not Path("go").exists():
                time.sleep(0.01)
            if stopped and step < TOTAL:
                say(report, run, "interrupted")
                return 130
        if fault == "evaluate":
            (folder / "fault").touch()
        if fault == "save":
            say(report, run, "failed", "No space left on device")
            status = 1
            continue
        (folder / "card.md").touch()
        say(report, run, "done")
    return status


def save(folder: Path, step: int, *, fails: bool = False) -> None:
    """Weights and provenance of a step; `fails`: the weights stay those of the step before."""
    header = json.dumps({"__metadata__": {"steps": str(step - fails)}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (folder / "provenance.json").write_text(json.dumps({"steps": step}))


def evaluate(task: str, policy: str, given: dict[str, str]) -> int:
    checkpoint, episodes = Path(given["--checkpoint"]), int(given["--episodes"])
    if steps_of(checkpoint) != TOTAL or (checkpoint / "fault").exists():
        print("error: the checkpoint is not whole", file=sys.stderr)
        return 2
    folder = Path(given["--out"])
    folder.mkdir(parents=True, exist_ok=True)
    definition = {
        "usr_args": {"task_name": task, "seed": int(given["--seed"])},
        "config": given["--config"],
        "policy": policy,
        "checkpoint": "as it was",
        "noise_seed": 0,
    }
    (folder / "run.json").write_text(json.dumps({"definition": definition, "planned": episodes}))
    episode = json.loads(Path("episode.json").read_text())
    first = 100_000 * (1 + int(given["--seed"]))
    lines = [
        json.dumps({"kind": "episode", **episode, "index": n, "seed": first + n})
        for n in range(episodes)
    ]
    (folder / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
