"""What identifies an environment: a changed file that decides an episode changes the identity."""

from pathlib import Path

import pytest

from twin_env import backends, environment_fingerprint, load_env_config
from twin_env.backends import list_tasks


def test_a_strict_tasks_identity_changes_with_the_task_that_it_varies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load_env_config("demo_clean")
    names = ("place_burger_fries", "place_burger_fries_strict", "click_bell")
    before = {name: environment_fingerprint(name, config) for name in names}
    read = Path.read_bytes

    def edited(path: Path) -> bytes:
        return read(path) + (b"# edited" if path.name == "place_burger_fries.py" else b"")

    monkeypatch.setattr(Path, "read_bytes", edited)
    after = {name: environment_fingerprint(name, config) for name in names}
    changed = {name for name in names if before[name] != after[name]}
    assert changed == {"place_burger_fries", "place_burger_fries_strict"}


def test_every_strict_task_has_the_file_that_it_varies() -> None:
    strict = [name for name in list_tasks() if name.endswith("_strict")]
    assert strict
    for name in strict:
        stems = [path.stem for path in backends._files_of(name)]
        assert stems == [name, name.removesuffix("_strict")]
