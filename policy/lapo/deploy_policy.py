"""LAPO on pictures and joints: all that matters is in the checkpoint folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twin_policy import deploy
from twin_policy.deploy import eval, reset_model

__all__ = ["eval", "get_model", "reset_model"]


def get_model(usr_args: Mapping[str, Any]) -> Any:
    """The agent of the checkpoint that `usr_args` name; by RoboTwin's naming, one of this folder's.

    The folder is the one that RoboTwin imports, also where it is linked to this file.
    """
    return deploy.get_model(usr_args, folder=Path(__file__).absolute().parent)
