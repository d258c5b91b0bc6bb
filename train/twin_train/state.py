"""What training needs to go on exactly where it stopped: one safetensors file, nothing pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from twin_policy.files import write_atomically

STATE = Path("training_state") / "latest.safetensors"
Tensors = dict[str, dict[str, Tensor]]


def save_state(
    folder: Path,
    *,
    policy: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    reached: Mapping[str, Any],
) -> None:
    """Tensors that the average shares with the policy, a frozen tower's, are kept once.

    Args:
        reached: whatever JSON can hold: the next step, seconds so far, losses not yet logged.
    """
    own = policy.state_dict()
    tensors = {f"policy/{name}": value for name, value in own.items()}
    for name, value in average.state_dict().items():
        if name not in own or value.data_ptr() != own[name].data_ptr():
            tensors[f"average/{name}"] = value
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in moments.items()}
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header = {"reached": json.dumps(reached)}
    write_atomically(folder / STATE, lambda part: save_file(whole, part, metadata=header))


def load_state(
    folder: Path, *, policy: nn.Module, average: nn.Module
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Fills the two from the folder.

    Returns:
        `reached`, and the optimiser's tensors for `load_moments`; None if nothing was saved.
    """
    if not (folder / STATE).is_file():
        return None
    tensors: Tensors = {"policy": {}, "average": {}, "optimizer": {}}
    with safe_open(folder / STATE, framework="pt") as file:
        reached: dict[str, Any] = json.loads(file.metadata()["reached"])
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            part, name = key.split("/", 1)
            tensors[part][name] = file.get_tensor(key)
    policy.load_state_dict(tensors["policy"])
    average.load_state_dict(tensors["policy"] | tensors["average"])
    return reached, tensors["optimizer"]


def load_moments(optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Fills an optimiser of the same parameters with what `load_state` returned."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.items():
        index, name = key.split("/")
        moments.setdefault(int(index), {})[name] = _laid_out_like(parameters[int(index)], value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Moments in their parameter's memory layout, which a fused optimiser takes for granted."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
