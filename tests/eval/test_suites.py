"""What is compared: words and YAML files, and every mistake in them by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from twin_env import list_tasks, load_env_config
from twin_env.config import config_folder
from twin_eval.suites import PolicyChoice, check_labels, load_suite, parse_policy


@pytest.mark.parametrize(
    ("word", "choice"),
    [
        ("dp_resnet", PolicyChoice(label="dp_resnet", policy="dp_resnet")),
        ("a/b/mine", PolicyChoice(label="mine", policy="a/b/mine")),
        ("lr0.01=dp", PolicyChoice(label="lr0.01", policy="dp")),
        ("dp@out/{task}/x", PolicyChoice(label="dp", policy="dp", checkpoint="out/{task}/x")),
        ("n=dp@a=b", PolicyChoice(label="n", policy="dp", checkpoint="a=b")),
    ],
)
def test_words(word: str, choice: PolicyChoice) -> None:
    assert parse_policy(word) == choice


@pytest.mark.parametrize("word", ["", "=dp", "x=", "@c", "..=dp", "a/b=dp", "dp.aside2=dp"])
def test_impossible_words(word: str) -> None:
    with pytest.raises(ValueError, match=r"LABEL|label"):
        parse_policy(word)


def test_two_policies_of_one_name_need_labels() -> None:
    with pytest.raises(ValueError, match="two policies are called 'dp'"):
        check_labels([parse_policy("dp"), parse_policy("x/dp")])


def suite(tmp_path: Path, **values: Any) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"tasks": ["one", "two"], **values}))
    return str(path)


def test_a_whole_suite(tmp_path: Path) -> None:
    entry = {"label": "short", "policy": "dp", "checkpoint": "c", "set": {"n": 4}}
    found = load_suite(suite(tmp_path, episodes=7, policies=["still", entry]))
    assert (found.name, found.tasks, found.configs) == ("mine", ("one", "two"), ("demo_clean",))
    assert (found.episodes, found.seed) == (7, None)
    assert found.policies == (
        PolicyChoice(label="still", policy="still"),
        PolicyChoice(label="short", policy="dp", checkpoint="c", settings={"n": 4}),
    )


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"task": ["one"]}, "did you mean 'tasks'"),
        ({"tasks": "one"}, "tasks must be a list of names: got 'one'"),
        ({"tasks": ["one", "one"]}, "names something twice"),
        ({"episodes": 0}, "episodes must be a whole number of at least 1: got 0"),
        ({"policies": "still"}, "policies must be a list: got 'still'"),
        ({"policies": 3}, "policies must be a list: got 3"),
        ({"policies": [3]}, "a policy is a word or a mapping"),
        ({"policies": [{"policy": "a", "checkpoint": 5}]}, "a checkpoint is a path: got 5"),
        ({"policies": [{"policy": "a", "set": [1]}]}, "set must map settings to values"),
        ({"policies": [{"policy": "a", "lable": "b"}]}, "did you mean 'label'"),
        ({"policies": ["a", "a"]}, "two policies are called 'a'"),
    ],
)
def test_mistakes(tmp_path: Path, values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        load_suite(suite(tmp_path, **values))


def test_a_missing_suite_names_those_that_are_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"no suite nowhere; suites here: .*seeds5"):
        load_suite("nowhere")
    assert len(load_suite("suites/seeds5.yaml").tasks) == 5
    assert load_suite("seeds5") == load_suite("suites/seeds5.yaml")


@pytest.mark.parametrize("path", sorted((config_folder() / "suites").glob("*.yaml")))
def test_shipped_suites_name_tasks_and_configs_that_are_there(path: Path) -> None:
    found = load_suite(str(path))
    assert set(found.tasks) <= set(list_tasks())
    for config in found.configs:
        load_env_config(config)
