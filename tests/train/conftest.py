"""What tests of training share: a toy, and a function that trains on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_fixtures import CONFIG, Run, write_episodes

from twin_train.config import load_run_config
from twin_train.loop import Result
from twin_train.run import train_run


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Before each test: a command that one of them ran may have asked for more."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    write_episodes(folder, 4)
    return folder


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def run(episodes: Path, config_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Trains with these assignments; draws no figure, which would cost more than the training."""
    monkeypatch.setattr("twin_train.run.draw_losses", lambda *_, **__: None)

    def start(folder: Path, *assignments: str, **options: Any) -> Result:
        settings: dict[str, Any] = {
            "data": {"toy": episodes},
            "device": torch.device("cpu"),
            "threads": 1,
            "quiet": True,
        }
        config = load_run_config(str(config_path), list(assignments))
        return train_run(config, folder=folder, **settings | options)

    return start
