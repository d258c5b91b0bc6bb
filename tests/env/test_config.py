import json
from pathlib import Path
from typing import Any

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
        ({"data_type": {"dept": True}}, "did you mean 'depth'"),
        (
            {"data_type": {"pointcloud": True}, "camera": {"collect_head_camera": False}},
            r"pointcloud is of what the head camera sees, and camera\.collect_head_camera is false",
        ),
        (
            {"pcd_down_sample_num": -1},
            r"pcd_down_sample_num is from 0 to 1000000 \(points, .*not -1",
        ),
        ({"pcd_down_sample_num": 10**12}, "pcd_down_sample_num is from 0 to 1000000"),
        ({"shadow_map_size": 8193}, r"shadow_map_size is from 0 to 8192 .*not 8193"),
        ({"samples_per_pixel": 2}, "samples_per_pixel is one of 1, 4, 9, 16, not 2"),
        ({"render_freq": "often"}, "render_freq must be a whole number"),
        ({7: 1}, "unknown key in config 7; did you mean"),
        ({"embodiment": ["franka"]}, "unknown embodiment .*'franka'"),
        ({"save_freq": 0}, r"save_freq is from 1 to 10000 \(physics steps .*not 0"),
        ({"save_freq": 10_001}, "save_freq is from 1 to 10000"),
        ({"episode_num": 0}, "episode_num is from 1 to 1000000"),
        ({"save_freq": None}, "save_freq must be a whole number, such as 15, not None"),
        ({"embodiment": "twin-arm6"}, "embodiment must be a list"),
        ({"camera": {"head_camera_type": "D453"}}, "'D453'; did you mean 'D435'"),
    ],
)
def test_bad_keys_and_values_are_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        complete_env_config(given)


COUNTS = [name for name, value in DEFAULTS.items() if type(value) is int]
RATES = {
    name: value
    for name, value in DEFAULTS["domain_randomization"].items()
    if not isinstance(value, bool)
}


@pytest.mark.parametrize("value", [1.5, 4.0, float("nan"), float("inf"), True])
@pytest.mark.parametrize("name", COUNTS)
def test_what_is_counted_is_a_whole_number(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a whole number, such as .*not {value}"):
        complete_env_config({name: value})


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 10**400, True])
@pytest.mark.parametrize("name", RATES)
def test_what_is_measured_is_a_finite_number(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a finite number, such as .*not {value}"):
        complete_env_config({"domain_randomization": {name: value}})


def test_a_number_is_the_same_however_it_is_written() -> None:
    def text(rates: dict[str, Any]) -> str:
        return json.dumps(complete_env_config({"domain_randomization": rates}))

    whole = {name: int(value) for name, value in RATES.items()}
    assert text(whole) == text(RATES) == text({})


ROBOTWINS_FILE = """
render_freq: 0
episode_num: 50
use_seed: false
save_freq: 15
embodiment: [twin-arm6]
language_num: 100
domain_randomization:
  random_background: false
  cluttered_table: false
  clean_background_rate: 1
  random_head_camera_dis: 0
  random_table_height: 0
  random_light: false
  crazy_random_light_rate: 0
  random_embodiment: false
camera:
  head_camera_type: D435
  wrist_camera_type: D435
  collect_head_camera: true
  collect_wrist_camera: true
data_type:
  rgb: true
  third_view: false
  depth: false
  pointcloud: false
  observer: false
  endpose: true
  qpos: true
  mesh_segmentation: false
  actor_segmentation: false
pcd_down_sample_num: 1024
pcd_crop: true
save_path: ./data
clear_cache_freq: 5
collect_data: true
eval_video_log: true
"""
"""All keys of RoboTwin's own files; of its values only the arm is another."""


def test_robotwins_file_is_the_same_environment(tmp_path: Path) -> None:
    path = tmp_path / "theirs.yml"
    path.write_text(ROBOTWINS_FILE)
    theirs = environment_fingerprint("beat_block_hammer", load_env_config(str(path)))
    ours = environment_fingerprint("beat_block_hammer", load_env_config("demo_clean"))
    assert theirs == ours


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["aloha-agilex"], r"\[twin-arm6\]"),
        (["franka-panda"], r"\[twin-arm7\]"),
        (["ARX-X5", "franka-panda", 0.6], r"\[twin-arm6, twin-arm7, 0\.6\]"),
        (["twin-arm7", "piper", 0.7], r"\[twin-arm7, twin-arm6, 0\.7\]"),
    ],
)
def test_robotwins_arms_are_answered_with_ours(theirs: list[object], ours: str) -> None:
    with pytest.raises(ValueError, match=f"its own with as many joints are {ours}"):
        complete_env_config({"embodiment": theirs})


def test_a_config_file_is_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "coarse.yml"
    path.write_text(yaml.safe_dump({"save_freq": 30}))
    assert load_env_config(str(path))["save_freq"] == 30
    path.write_text("save_freqq: 30")
    with pytest.raises(ValueError, match=r"coarse\.yml"):
        load_env_config(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"save_freq: 15\nembodiment: [a", "line 2: not YAML: expected ',' or ']'"),
        (b"save_freq: 2020-13-45\n", "not YAML: month must be in 1..12"),
        (b"save_freq: \x01\n", "not YAML: unacceptable character #x0001"),
        (b"\xff\xfe\xff", "not YAML: 'utf-8' codec can't decode"),
        (b"[]", "an environment config is a mapping"),
    ],
)
def test_what_is_no_yaml_is_told_by_file_and_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "broken.yml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken") as caught:
        load_env_config(str(path))
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_told_by_option_beside_the_known_configs() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"--config none\.yml: no such file; .* demo_clean,"
    ):
        load_env_config("none.yml")
    with pytest.raises(FileNotFoundError, match=r"--configs none\.yml"):
        load_env_config("none.yml", option="--configs")


def test_an_unknown_task_names_the_nearest() -> None:
    assert "beat_block_hammer" in list_tasks()
    with pytest.raises(ValueError, match=r"'beat_hammer'; did you mean 'beat_block_hammer'"):
        make_env("beat_hammer")


def test_what_no_episode_depends_on_is_not_part_of_the_environment() -> None:
    config = load_env_config("demo_clean")
    other = {
        **config,
        "episode_num": config["episode_num"] + 1,
        "save_path": "elsewhere",
        "data_type": {**config["data_type"], "observer": True},
    }
    fingerprint = environment_fingerprint("beat_block_hammer", config)
    assert environment_fingerprint("beat_block_hammer", other) == fingerprint
    deeper = {**config, "data_type": {**config["data_type"], "depth": True}}
    assert environment_fingerprint("beat_block_hammer", deeper) != fingerprint


def test_the_fingerprint_follows_the_config_and_nothing_else() -> None:
    config = load_env_config("demo_clean")
    one = environment_fingerprint("beat_block_hammer", config)
    assert one == environment_fingerprint("beat_block_hammer", dict(reversed(config.items())))
    other = environment_fingerprint("beat_block_hammer", {**config, "save_freq": 30})
    assert {key for key in one if one[key] != other[key]} == {"config"}
