"""Policy folders: found, checked and imported as RoboTwin does."""

import sys
from pathlib import Path

import pytest

from twin_eval import policies

FOLDERS = Path(__file__).parent / "policies"


def test_reference_policies_are_found_by_name() -> None:
    assert {"hold_still", "expert_replay"} <= set(policies.list_policies())
    assert policies.find_policy("hold_still").name == "hold_still"


def test_a_path_is_a_policy_too() -> None:
    assert policies.find_policy(str(FOLDERS / "scripted")) == FOLDERS / "scripted"


def test_a_folder_without_settings_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"deploy_policy\.yml"):
        policies.find_policy(str(tmp_path))


def test_a_folder_that_python_cannot_import_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "my-policy"
    folder.mkdir()
    (folder / policies.SETTINGS_FILE).touch()
    with pytest.raises(ValueError, match="identifier: got 'my-policy'"):
        policies.find_policy(str(folder))


@pytest.mark.parametrize("name", ["hold_still", "expert_replay"])
def test_reference_policies_have_the_three_functions(name: str) -> None:
    module = policies.import_policy(policies.find_policy(name))
    assert all(callable(getattr(module, function)) for function in policies.FUNCTIONS)


def test_missing_functions_are_named() -> None:
    with pytest.raises(ValueError, match="missing: eval, reset_model"):
        policies.import_policy(FOLDERS / "incomplete")


def test_a_package_of_the_same_name_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "json"
    folder.mkdir()
    (folder / "__init__.py").touch()
    with pytest.raises(ValueError, match="rename the policy folder"):
        policies.import_policy(folder)
    sys.path.remove(str(tmp_path))


def test_usr_args_are_settings_then_overrides_then_the_harness() -> None:
    harness = {"policy_name": "x", "seed": 3, "checkpoint_path": None}
    usr_args = policies.read_usr_args(FOLDERS / "scripted", harness, {"mode": "nan"})
    assert usr_args["mode"] == "nan"
    assert usr_args["delay_s"] == 0.0
    assert usr_args["policy_name"] == "x"
    assert usr_args["seed"] == 3


def test_override_of_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'mode'"):
        policies.read_usr_args(FOLDERS / "scripted", {}, {"mod": 1})
    with pytest.raises(ValueError, match="'seed' is set by the harness"):
        policies.read_usr_args(FOLDERS / "scripted", {}, {"seed": 1})


def test_checkpoint_by_default(tmp_path: Path) -> None:
    assert policies.find_checkpoint("task", "dp", tmp_path) is None
    (tmp_path / "task" / "dp_demo").mkdir(parents=True)
    assert policies.find_checkpoint("task", "dp", tmp_path) == tmp_path / "task" / "dp_demo"
    (tmp_path / "task" / "dp_large").mkdir()
    with pytest.raises(ValueError, match=r"(?s)--checkpoint .*dp_demo.*--checkpoint .*dp_large"):
        policies.find_checkpoint("task", "dp", tmp_path)
    (tmp_path / "task" / "dp").mkdir()
    assert policies.find_checkpoint("task", "dp", tmp_path) == tmp_path / "task" / "dp"


def test_digest_depends_on_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = policies.digest_folder(tmp_path)
    assert policies.digest_folder(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = policies.digest_folder(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, renamed, policies.digest_folder(tmp_path)}) == 3
