from pathlib import Path

import pytest
import yaml

from twin_env.backends import environment_fingerprint, list_tasks, make_env
from twin_env.config import DEFAULTS, complete_env_config, load_env_config


def test_demo_clean_spells_out_every_default() -> None:
    assert load_env_config("demo_clean") == DEFAULTS


def test_an_unknown_config_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'demo_claen'; did you mean 'demo_clean'"):
        load_env_config("demo_claen")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"save_frq": 15}, "did you mean 'save_freq'"),
        ({"camera": {"head_camera_typ": "D435"}}, "did you mean 'head_camera_type'"),
        ({"camera": "D435"}, "camera must be a mapping"),
        ({"data_type": {"depth": True}}, "not offered by the embedded simulator yet"),
        ({"embodiment": ["franka"]}, "unknown embodiment .*'franka'"),
        ({"save_freq": 0}, "save_freq must be at least 1"),
        ({"save_freq": None}, "save_freq must be a number, such as 15, not None"),
        ({"embodiment": "twin-arm6"}, "embodiment must be a list"),
        ({"camera": {"head_camera_type": "D453"}}, "'D453'; did you mean 'D435'"),
        ({"data_type": {"rgb": False}}, r"data_type\.rgb cannot be turned off"),
    ],
)
def test_bad_keys_and_values_are_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        complete_env_config(given)


def test_a_config_file_is_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "coarse.yml"
    path.write_text(yaml.safe_dump({"save_freq": 30}))
    assert load_env_config(str(path))["save_freq"] == 30
    path.write_text("save_freqq: 30")
    with pytest.raises(ValueError, match=r"coarse\.yml"):
        load_env_config(str(path))


def test_an_unknown_task_names_the_nearest() -> None:
    assert "beat_block_hammer" in list_tasks()
    with pytest.raises(ValueError, match=r"'beat_hammer'; did you mean 'beat_block_hammer'"):
        make_env("beat_hammer")


def test_how_many_episodes_are_wanted_is_not_part_of_the_environment() -> None:
    config = load_env_config("demo_clean")
    more = {**config, "episode_num": config["episode_num"] + 1}
    fingerprint = environment_fingerprint("beat_block_hammer", config)
    assert environment_fingerprint("beat_block_hammer", more) == fingerprint


def test_the_fingerprint_follows_the_config_and_nothing_else() -> None:
    config = load_env_config("demo_clean")
    one = environment_fingerprint("beat_block_hammer", config)
    assert one == environment_fingerprint("beat_block_hammer", dict(reversed(config.items())))
    other = environment_fingerprint("beat_block_hammer", {**config, "save_freq": 30})
    assert {key for key in one if one[key] != other[key]} == {"config"}
