"""Weight files of backbones: found, read without running them, checked key by key, identified."""

from __future__ import annotations

import codecs
import hashlib
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

RANDOM = "random"
"""Instead of weights: as initialised, for those who ask for it by name."""

HUB = "hub"
"""`hub`, or `hub:` and a tag: weights as published, from the local cache or the network."""

TUPLES_ALLOWED = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)
"""Whether torch can be told to allow a function by another name, too."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


class WeightsError(ValueError):
    """Pretrained weights that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub."""

    repository: str
    names: tuple[str, ...]
    """Under which the file may be there, the best one first."""


@dataclass(frozen=True)
class WeightsIdentity:
    """Which weights a backbone started from."""

    source: str
    """As it was asked for: `hub:openai`, a path; or `random weights`, `from scratch`."""
    tag: str | None = None
    licence: str = "none"
    quick_gelu: bool | None = None
    """Whether the activations are QuickGELU, where the tag decides it."""
    file: str | None = None
    sha256: str | None = None
    """Of the file."""
    dropped: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names in the file that the network has no use for, by kind."""


def timm_hub_file(tag: str) -> HubFile:
    """Of an architecture and tag as timm writes them, `resnet18.a1_in1k`."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(tag)
    if config is None or not config.hf_hub_id:
        raise WeightsError(f"timm has no weights {tag} on the hub: give a file of them instead")
    repository = config.hf_hub_id
    return HubFile(f"timm/{tag}" if repository == "timm/" else repository, ("model.safetensors",))


def split_dropped(
    tensors: Mapping[str, Tensor], rules: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Parts what is kept from what is dropped by name, the latter by kind."""
    dropped = {
        kind: sorted(key for key in tensors if any(fnmatchcase(key, glob) for glob in globs))
        for kind, globs in rules.items()
    }
    gone = {key for keys in dropped.values() for key in keys}
    kept = {key: tensor for key, tensor in tensors.items() if key not in gone}
    return kept, {kind: keys for kind, keys in dropped.items() if keys}


def locate(
    weights: str,
    *,
    hub_file: HubFile | None,
    file_names: Sequence[str],
    setting: str,
    published: str = "",
) -> Path:
    """The file of a path, of a folder that holds it, or of `hub`.

    Args:
        hub_file: for `hub`.
        file_names: of the file, in a folder.
        setting: what the caller calls the option, for the messages.
        published: a sentence on where the file is to be had.

    Raises:
        WeightsError: no such file, no such folder, or not to be had.
    """
    if hub_file is not None:
        return fetch(weights, hub_file, setting=setting)
    path = Path(weights)
    if path.is_dir():
        held = [path / name for name in file_names if (path / name).is_file()]
        if len(held) != 1:
            raise WeightsError(
                f"{path}: a folder of weights must hold one of {', '.join(file_names)}, and holds "
                f"{', '.join(found.name for found in held) or 'none'}: set {setting} to the file"
                f"{published and '. ' + published}"
            )
        return held[0]
    # As from elsewhere than the project's folder, if the path is a relative one.
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    if path.suffix not in SUFFIXES:
        missing = f"there is no folder {path}{where}, and " if path.parent != Path() else ""
        raise WeightsError(
            f"{missing}a weight file ends in {', '.join(SUFFIXES)}, and this is {path}: set "
            f"{setting} to such a file, to a folder with one, to hub: and a tag, or to random"
            f"{published and '. ' + published}"
        )
    if not path.is_file():
        raise WeightsError(
            f"no weight file {path}{where}: set {setting} to one"
            + (f". {published}" if published else ", or to hub: and a tag to have it fetched")
        )
    return path


def fetch(weights: str, hub_file: HubFile, *, setting: str) -> Path:
    """The file from the hub's local cache, or from the hub.

    Raises:
        WeightsError: in neither; the message says how to bring it here by hand.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    repository, first = hub_file.repository, hub_file.names[0]
    for name in hub_file.names:
        if isinstance(held := try_to_load_from_cache(repository, name), str):
            return Path(held)
    failure: Exception | None = None
    for name in hub_file.names:
        try:
            return Path(hf_hub_download(repository, name))
        except Exception as error:  # noqa: BLE001 the hub's errors are many and change
            failure = failure or error
            # Only where the hub answers, and has no such file, is it worth asking for the next.
            if not isinstance(error, EntryNotFoundError) or isinstance(
                error, LocalEntryNotFoundError
            ):
                break
    folder = f"weights/{repository.rpartition('/')[2]}"
    raise WeightsError(
        f"{weights}: {first} of {repository} on the Hugging Face hub is not in the local cache "
        f"and cannot be fetched ({type(failure).__name__}: {failure}). On a machine with a "
        f"network, `hf download {repository} {first} --local-dir {folder}`; copy the folder here "
        f"and set {setting} to {folder}/{first}"
    ) from failure


def read_weights(
    path: Path, *, inside: str | None = None, numpy_scalars: bool = False
) -> dict[str, Tensor]:
    """The tensors of a weight file by name, half precision as float32.

    TorchScript archives, as OpenAI publishes CLIP, are opened for their parameters.

    Args:
        inside: the key under which a checkpoint of more things may hold them.
        numpy_scalars: whether those other things may be numbers as numpy keeps them.

    Raises:
        WeightsError: not a whole file, or one that holds other objects.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: object = load_file(str(path))
        elif is_torchscript(path):
            with warnings.catch_warnings():
                # Deprecated, and still what OpenAI publishes.
                warnings.simplefilter("ignore")
                loaded = torch.jit.load(str(path), map_location="cpu").state_dict()
        else:
            # Tensors and plain values only: a whole pickle could run anything.
            with allowed_scalars() if numpy_scalars else nullcontext():
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zip and pickle each have errors of their own
        raise WeightsError(
            f"{path}: not a whole file of tensors alone: {error}. If it holds other things and you "
            "trust where it comes from, read it with torch.load(weights_only=False) and save its "
            "tensors alone"
        ) from error
    if inside is not None and isinstance(loaded, Mapping) and inside in loaded:
        loaded = loaded[inside]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        held = list(loaded)[:4] if isinstance(loaded, Mapping) else type(loaded).__name__
        raise WeightsError(
            f"{path}: must hold tensors by name (a plain state dict), and holds {held}: "
            "save the state dict alone"
        )
    return {
        name: value.detach().float() if value.is_floating_point() else value
        for name, value in loaded.items()
    }


@contextmanager
def allowed_scalars() -> Iterator[None]:
    """Within it `torch.load(weights_only=True)` also makes numpy's numbers, and argparse's records.

    Neither runs anything of the file.
    """
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    allowed: list[Any] = [scalar, np.dtype, *kinds, codecs.encode, Namespace]
    if TUPLES_ALLOWED:
        # numpy 1 and 2 call the same function by two names.
        allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals(allowed)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def is_torchscript(path: Path) -> bool:
    if path.suffix not in (".pt", ".pth") or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        # Beside data.pkl, which both kinds have.
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def put(
    path: Path,
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    dropped: Mapping[str, Sequence[str]],
) -> None:
    """Fills a network with weights of its own names and shapes, all of them and no others.

    Raises:
        WeightsError: with the first names that are missing or strange; nothing is changed.
    """
    expected = network.state_dict()
    missing, strange = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
    if missing or strange:
        rules = ", ".join(f"{len(keys)} of {kind}" for kind, keys in dropped.items())
        raise WeightsError(
            f"{path}: not the weights of this backbone: {len(missing)} tensors are missing "
            f"{missing[:3]}, {len(strange)} are unknown {strange[:3]}; dropped were "
            f"{rules or 'none'}"
        )
    for key, tensor in expected.items():
        if tensor.shape != tensors[key].shape:
            raise WeightsError(
                f"{path}: {key} must have shape {tuple(tensor.shape)}, and has "
                f"{tuple(tensors[key].shape)}"
            )
    network.load_state_dict(tensors)


def resize_positions(
    positions: Tensor,
    grid: tuple[int, int],
    *,
    prefix: int,
    antialias: bool = True,
    offset: float = 0.0,
) -> Tensor:
    """Position embeddings (..., P + K, C) of a square grid, for another grid, float32.

    Bicubic; prefix tokens keep theirs.

    Args:
        antialias: as timm and open_clip do.
        offset: of a token, by which they are stretched beyond the new grid before they are read
            off, as DINO and Depth Anything do; 0: they fit it.

    Raises:
        WeightsError: they are not of a square grid.
    """
    patches = positions[..., prefix:, :]
    count, width = patches.shape[-2:]
    side = round(count**0.5)
    square = side * side == count
    if grid == (side, side) if square else grid[0] * grid[1] == count:
        return positions
    if not square:
        raise WeightsError(f"{count} position embeddings are not those of a square grid")
    of_grid = rearrange(patches.float().reshape(count, width), "(h w) c -> 1 c h w", h=side)
    target: dict[str, Any] = {"size": grid}
    if offset:
        target = {"scale_factor": tuple((count + offset) / side for count in grid)}
    resized = F.interpolate(
        of_grid, **target, mode="bicubic", antialias=antialias, align_corners=False
    )
    assert tuple(resized.shape[-2:]) == tuple(grid)
    flat = rearrange(resized, "1 c h w -> (h w) c").reshape(*patches.shape[:-2], -1, width)
    return torch.cat([positions[..., :prefix, :].float(), flat], dim=-2)
