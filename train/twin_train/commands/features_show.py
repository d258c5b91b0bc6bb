"""`twinbench features show`: maps of tokens and attention over pictures that were recorded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from twin_train.commands.backbone_options import parse_input_size, parse_layer, read_config

if TYPE_CHECKING:
    import torch

    from twin_train.looking import Network, Recording

POLICY, BACKBONE, CHECKPOINT = "policy", "backbone", "checkpoint"
OUT = Path("outputs/features.png")
CAMERA = "head_camera"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="folder of episodes, or a store")
    parser.add_argument("--episode", type=int, default=0, help="its number; default: 0")
    parser.add_argument(
        "--frame", "--frames", type=int, nargs="+", default=[0], dest="frames", help="default: 0"
    )
    parser.add_argument(
        "--camera",
        nargs="+",
        default=[],
        dest="cameras",
        metavar="NAME",
        help=f"default: {CAMERA}, or the first there is",
    )
    for kind, name, text in (
        (BACKBONE, "NAME", "such as ViT-B/32; timm:NAME.TAG is any of timm's"),
        (POLICY, "NAME", "the backbone of a policy config, and its layer, as training starts"),
        (CHECKPOINT, "FOLDER", "the backbone of a trained policy, and its layer"),
    ):
        parser.add_argument(
            f"--{kind}",
            action="append",
            type=partial(_source, kind),
            default=[],
            dest="sources",
            metavar=name,
            help=f"{text}; as often as needed, side by side in this order",
        )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        help="a file, a folder, hub:TAG or random; one for all, or one for each in their order",
    )
    parser.add_argument("--size", metavar="HxW", help="of the network's input; default: its own")
    parser.add_argument(
        "--layers", help="numbers and names as in 3,7,final; default: the policy's, or final"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="KEY=VALUE",
        help="change the configs, as in policy.encoder.tag=openai",
    )
    parser.add_argument("--seed", type=int, help="of random weights, as train.seed")
    parser.add_argument("--out", type=Path, help=f"a PNG; default, without --video: {OUT}")
    parser.add_argument("--video", type=Path, help="an MP4 of the whole episode")
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:N"
    )
    parser.add_argument("--threads", type=int, help="CPU threads; default: all cores")


def _source(kind: str, word: str) -> tuple[str, str]:
    return kind, word


def run(args: argparse.Namespace) -> int:
    page = OUT if args.out is None and args.video is None else args.out
    for option, path, suffix in (("--out", page, ".png"), ("--video", args.video, ".mp4")):
        if path is not None and path.suffix.lower() != suffix:
            raise ValueError(f"{option} names a {suffix} file, not {path}")
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads must be at least 1, and is {args.threads}")

    import torch

    from twin_policy.deploy import choose_device
    from twin_train.commands.train import count_cpus
    from twin_train.looking import open_recording
    from twin_train.show_features import make_show, sampled_frames

    torch.set_num_threads(args.threads or count_cpus())
    recording = open_recording(args.data, args.episode)
    show = make_show(
        recording,
        _make_networks(args, choose_device(args.device)),
        cameras=list(dict.fromkeys(args.cameras)) or [_usual_camera(recording)],
        frames=list(dict.fromkeys(args.frames)),
        fitted=sampled_frames(recording.n_frames) if args.video else None,
    )
    if page is not None:
        show.write_page(page)
        print(page)
    if args.video is not None:
        show.write_film(args.video)
        print(args.video)
    return 0


def _usual_camera(recording: Recording) -> str:
    return CAMERA if CAMERA in recording.shapes else sorted(recording.shapes)[0]


def _make_networks(args: argparse.Namespace, device: torch.device) -> list[Network]:
    """In the order in which they were named.

    Raises:
        ValueError: none named, or another number of weights.
    """
    from twin_train.looking import make_network, open_network

    if not args.sources:
        raise ValueError("which networks? Give --backbone, --policy or --checkpoint")
    fresh = [number for number, (kind, _) in enumerate(args.sources) if kind != CHECKPOINT]
    weights = dict(zip(fresh, _one_for_each(args.weights, len(fresh)), strict=True))
    layers = [parse_layer(word) for word in args.layers.split(",")] if args.layers else None
    networks = []
    for number, (kind, name) in enumerate(args.sources):
        if kind == CHECKPOINT:
            networks.append(open_network(Path(name), layers=layers, device=device))
            continue
        changes = {
            "pretrained_backbone_weights": weights[number],
            "resize_shape": parse_input_size(args.size) if args.size else None,
        }
        policy, backbone = (name, None) if kind == POLICY else (None, name)
        config = read_config(policy, backbone, args.assignments, changes)
        made = make_network(
            config.policy.encoder,
            layers=layers,
            title=f"backbone of {name}" if policy else name,
            sizes=config.policy.cameras,
            seed=config.train.seed if args.seed is None else args.seed,
            device=device,
        )
        networks.append(made)
    return networks


def _one_for_each(weights: Sequence[str], count: int) -> Sequence[str | None]:
    if len(weights) in (1, count):
        return [*weights] if len(weights) == count else [*weights] * count
    if not weights:
        return [None] * count
    raise ValueError(
        f"--weights must be given once or for each of the {count} networks, and is given "
        f"{len(weights)} times"
    )
