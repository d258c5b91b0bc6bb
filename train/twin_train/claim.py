"""Whose an output folder is: a run's settings beside its state, so that two runs never mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from twin_policy.files import write_text
from twin_policy.parsing import differences, parse, plain, read_yaml
from twin_policy.pretrained import complete
from twin_train.config import RunConfig
from twin_train.state import STATE

RUN = "run.yaml"
NOT_OF_THE_RESULT = ("grad_accum_steps", "wandb", "image_cache_mb", "features")
"""Settings that may change from one session of a run to the next."""


class RunConflict(ValueError):
    """The output folder holds another run."""


def claim(
    folder: Path, config: RunConfig, *, data_sha256: Mapping[str, str], processes: int = 1
) -> None:
    """Marks `folder` as this run's, or checks that it is.

    Args:
        config: a resolved one.
        data_sha256: task to the fingerprint of its store.

    Raises:
        RunConflict: it is another one's.
    """
    settings = plain(config)
    accumulated = settings["train"]["grad_accum_steps"]
    for name in NOT_OF_THE_RESULT:
        del settings["train"][name]
    run = {
        "data_sha256": dict(data_sha256),
        # Two processes do what one does that accumulates two batches.
        "grad_accum_steps x processes": accumulated * processes,
        **settings,
    }
    path = folder / RUN
    # Without a state nothing has been trained, and so nothing can be lost.
    if not path.is_file() or not (folder / STATE).exists():
        if (folder / STATE).exists():
            raise RunConflict(f"{folder} holds a training state without {RUN}: use another --out")
        write_text(path, yaml.safe_dump(run, sort_keys=False))
        return
    if changed := differences(_with_new_keys(read_yaml(path)), run):
        raise RunConflict(
            f"{folder} holds another run, which differs in:\n  "
            + "\n  ".join(changed)
            + "\nGive another --out, or delete that folder to train anew."
        )


def _with_new_keys(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored run, with the defaults of keys that have come since it began."""
    policy, train = stored.get("policy"), stored.get("train")
    if not (isinstance(policy, dict) and isinstance(train, dict)):
        return stored
    config = parse(RunConfig, {"policy": policy, "train": train}, source=RUN)
    encoder = complete(config.policy.encoder)
    settings = plain(replace(config, policy=replace(config.policy, encoder=encoder)))
    for name in NOT_OF_THE_RESULT:
        del settings["train"][name]
    return {**stored, **settings}
