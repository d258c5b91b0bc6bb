"""`twinbench gallery`: a contact sheet of the tasks, clean and randomised."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from twin_env import gallery
from twin_env.config import load_env_config, read_embodiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="default: all, in one look each")
    parser.add_argument(
        "--configs",
        nargs="+",
        default=["demo_clean", "demo_randomized"],
        metavar="CONFIG",
        help="environment configs or YAML paths, a row of pictures each",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="the first task's scene; others count on"
    )
    parser.add_argument("--embodiment", help="arms, such as twin-arm7; default: the config's")
    parser.add_argument("--out", type=Path, default=Path("outputs/gallery.png"), help="a PNG file")


def run(args: argparse.Namespace) -> int:
    tasks = args.tasks or gallery.telling_tasks()
    gallery.check_tasks(tasks)
    if args.out.suffix.lower() != ".png":
        raise ValueError(f"--out names a PNG file, such as outputs/gallery.png, not {args.out}")
    if args.seed < 0:
        raise ValueError(f"--seed is 0 or more, not {args.seed}")
    own = {} if args.embodiment is None else {"embodiment": [args.embodiment]}
    configs = {name: {**load_env_config(name, option="--configs"), **own} for name in args.configs}
    for name, config in configs.items():
        read_embodiment(config, source=f"--embodiment on {name}")
    size_px = gallery.tile_size_px(len(tasks))
    tiles: dict[str, list[tuple[gallery.Picture, gallery.Picture]]] = {}
    total = len(tasks) * len(configs)
    with tqdm(total=total, desc="rendering", unit="scene", disable=not sys.stderr.isatty()) as bar:
        # A scene each: of one seed, every randomised picture would have the same wallpaper.
        for seed, task in enumerate(tasks, start=args.seed):
            tiles[task] = []
            for name, config in configs.items():
                shown = gallery.photograph(task, config, seed=seed, size_px=size_px)
                if shown.seed != seed:
                    bar.write(f"{task}, {name}: seed {shown.seed}, as the expert fails before")
                tiles[task].append(shown.pictures)
                bar.update()
    gallery.write_png(args.out, gallery.contact_sheet(tiles))
    print(f"{len(tasks)} tasks in {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")
    return 0
