"""Replay data for offline reinforcement learning: make it, check it, put it together."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twin_train.replay_output import Made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    create = actions.add_parser(
        "create",
        help="from demonstrations, rollouts of evaluations, other replay data; or a sample",
        description="Makes a folder of replay data, or goes on doing so. A SOURCE is a folder of "
        "demonstrations (each counts as a success), of replay data (labelled anew), or of "
        "evaluations that kept rollouts. What they were made of stays as it is.",
    )
    create.add_argument("sources", nargs="*", type=Path, metavar="SOURCE")
    create.add_argument("--out", type=Path, required=True)
    create.add_argument("--task", help="of demonstrations that do not say")
    create.add_argument("--episodes", type=int, metavar="N", help="only the first N of each source")
    create.add_argument(
        "--reward",
        help="sparse (1 on the last action of a success: the default), stages (each new stage "
        "pays the same, 1 in all), or FILE.py:function of a ReplayEpisode",
    )
    create.add_argument(
        "--cameras", nargs="+", default=[], metavar="CAMERA", help="only these (default: all)"
    )
    sample = create.add_argument_group("a sample, instead of sources")
    sample.add_argument("--synthetic", type=int, metavar="N", help="N drawn episodes")
    sample.add_argument("--dims", type=int, help="numbers an action: 14 (default) or 16")
    sample.add_argument("--size", metavar="HEIGHTxWIDTH", help="of the pictures (default: 48x64)")
    sample.add_argument("--seed", type=int, help="default: 0")

    verify = actions.add_parser("verify", help="check every rule; what is there to learn from")
    verify.add_argument("folder", type=Path)
    verify.add_argument(
        "--every-picture", action="store_true", help="decode all pictures, not three a camera"
    )
    verify.add_argument("--json", action="store_true", help="for programs")

    convert = actions.add_parser(
        "convert",
        help="a flat file of transitions, in the manner of D4RL",
        description="Cuts a file of one row a step at its terminals and timeouts. An episode that "
        "ends as terminal with a last reward above 0 is a success. Pictures become JPEGs.",
    )
    convert.add_argument("file", type=Path, metavar="FILE.hdf5")
    convert.add_argument("--out", type=Path, required=True)
    convert.add_argument("--task", required=True, help="what to call it")
    convert.add_argument(
        "--map",
        nargs="+",
        default=[],
        dest="names",
        metavar="OURS=THEIRS",
        help="what the file calls global, left, right (pictures), joint, action, reward, terminal, "
        "timeout, next_global, next_left, next_right, next_joint; usual names are found",
    )
    convert.add_argument(
        "--arms",
        nargs=2,
        type=int,
        metavar=("LEFT", "RIGHT"),
        help="joints of each arm (default: as many on both sides)",
    )

    merge = actions.add_parser("merge", help="several folders of replay data as one")
    merge.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    merge.add_argument("--out", type=Path, required=True)


def run(args: argparse.Namespace) -> int:
    return {"create": _create, "verify": _verify, "convert": _convert, "merge": _merge}[
        args.action
    ](args)


def _create(args: argparse.Namespace) -> int:
    if args.episodes is not None and args.episodes < 1:
        raise ValueError(f"--episodes must be at least 1, and is {args.episodes}")
    if (args.synthetic is None) == (not args.sources):
        raise ValueError("give either SOURCE... or --synthetic N")
    return _create_sample(args) if args.synthetic is not None else _create_from_sources(args)


def _create_from_sources(args: argparse.Namespace) -> int:
    from twin_env.replay_files import SPARSE
    from twin_train.replay_create import create, find_sources
    from twin_train.replay_rewards import find_rule

    _refuse(args, ("dims", "size", "seed"), "of --synthetic")
    rule = find_rule(args.reward or SPARSE)
    sources = find_sources(args.sources, episodes=args.episodes)
    with _bar(2 * sum(len(source.episodes) for source in sources)) as bar:
        made = create(
            sources,
            args.out,
            rule=rule,
            task=args.task,
            cameras=args.cameras,
            tick=bar.update,
        )
    return _say(made)


def _create_sample(args: argparse.Namespace) -> int:
    from twin_train.replay_synthetic import Sample, create_synthetic

    _refuse(args, ("task", "episodes", "reward", "cameras"), "of SOURCE..., not of --synthetic")
    if args.synthetic < 1:
        raise ValueError(f"--synthetic must be at least 1, and is {args.synthetic}")
    sample = Sample(
        args.synthetic,
        dim=14 if args.dims is None else args.dims,
        size=_size(args.size or "48x64"),
        seed=args.seed or 0,
    )
    with _bar(sample.episodes) as bar:
        made = create_synthetic(sample, args.out, tick=bar.update)
    return _say(made)


def _refuse(args: argparse.Namespace, names: Sequence[str], whose: str) -> None:
    for name in names:
        if getattr(args, name) not in (None, []):
            raise ValueError(f"--{name} is {whose}")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) >= 16 and int(width) >= 16):
        raise ValueError(f"--size is HEIGHTxWIDTH, each at least 16, such as 48x64: got {text!r}")
    return int(height), int(width)


def _verify(args: argparse.Namespace) -> int:
    from twin_env.episodes import list_episodes
    from twin_train.replay_verify import describe, verify

    with _bar(len(list_episodes(args.folder))) as bar:
        found = verify(args.folder, every_picture=args.every_picture, tick=bar.update)
    print(json.dumps(found.to_dict(), indent=2) if args.json else describe(found))
    return 1 if found.faults else 0


def _convert(args: argparse.Namespace) -> int:
    from twin_train.replay_convert import convert_flat

    names = {}
    for word in args.names:
        ours, equals, theirs = word.partition("=")
        if not (ours and equals and theirs):
            raise ValueError(f"--map wants OURS=THEIRS: got {word!r}")
        names[ours] = theirs
    with _bar(None) as bar:
        made = convert_flat(
            args.file,
            args.out,
            task=args.task,
            arms=tuple(args.arms) if args.arms else None,
            names=names,
            tick=bar.update,
        )
    return _say(made)


def _merge(args: argparse.Namespace) -> int:
    from twin_train.replay_create import find_sources, merge

    sources = find_sources(args.folders)
    with _bar(2 * sum(len(source.episodes) for source in sources)) as bar:
        made = merge(sources, args.out, tick=bar.update)
    return _say(made)


def _bar(total: int | None) -> Any:
    from tqdm import tqdm

    from twin_train.log import progress_interval_s

    every_s = progress_interval_s()
    return tqdm(total=total, unit="episode", leave=False, mininterval=every_s, delay=every_s)


def _say(made: Made) -> int:
    """What a folder holds now."""
    n = len(made.episodes)
    ends = [episode.about.outcome for episode in made.episodes]
    transitions = sum(episode.n_transitions for episode in made.episodes)
    there = f", {n - made.written} of them there already" if made.written < n else ""
    print(
        f"{made.folder}: {n} episodes{there}: {ends.count('success')} successes, "
        f"{ends.count('failure')} failures, {transitions} transitions"
    )
    for reason, count in made.left_out.items():
        print(f"  left out: {count} ({reason})")
    for remark, count in made.remarks.items():
        print(f"  {remark}" + (f" ({count} episodes)" if count > 1 else ""))
    if "failure" not in ends:
        print("  no failures: there is no contrast, and an advantage tells speed alone")
    return 0
