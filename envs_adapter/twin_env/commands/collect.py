"""`twinbench collect`: record expert demonstrations."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from twin_env.backends import BACKENDS, list_tasks
from twin_env.collect import Recording, SeedRecord, collect
from twin_env.config import load_env_config
from twin_env.names import unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help="task to demonstrate, such as beat_block_hammer")
    parser.add_argument("--episodes", type=int, help="how many; default: the config's episode_num")
    parser.add_argument("--workers", type=int, default=2, help="simulator processes")
    parser.add_argument("--config", default="demo_clean", help="environment config or YAML path")
    parser.add_argument("--out", type=Path, help="default: outputs/data/TASK/CONFIG")
    parser.add_argument("--backend", default="embedded", choices=BACKENDS)


def run(args: argparse.Namespace) -> int:
    if args.task not in list_tasks(args.backend):
        raise unknown("task", args.task, list_tasks(args.backend))
    config = load_env_config(args.config)
    episodes = config["episode_num"] if args.episodes is None else args.episodes
    if episodes < 1:
        raise ValueError(f"--episodes must be at least 1, not {episodes}")
    folder = args.out or Path("outputs/data") / args.task / Path(args.config).stem
    recording = Recording(args.task, args.backend, config, folder)
    # A terminal is redrawn often; a log file gets a line now and then.
    interval_s = 0.3 if sys.stderr.isatty() else 15.0
    there = len(list((folder / "data").glob("episode*.hdf5")))
    with tqdm(
        total=max(episodes, there),
        initial=there,
        desc=f"recording {args.task}",
        unit="episode",
        mininterval=interval_s,
    ) as bar:

        def show(record: SeedRecord) -> None:
            if record.verdict == "ok":
                bar.update()
            else:
                bar.write(f"seed {record.seed}: {record.verdict}: {record.reason}")

        records = collect(recording, episodes=episodes, workers=args.workers, progress=show)
    verdicts = Counter(record.verdict for record in records)
    kept = verdicts.pop("ok", 0)
    others = ", ".join(f"{n} {verdict}" for verdict, n in sorted(verdicts.items()))
    print(
        f"{kept} episodes in {folder} from {len(records)} seeds"
        + (f" ({others})" if others else "")
    )
    return 0
