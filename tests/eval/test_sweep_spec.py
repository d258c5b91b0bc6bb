"""What a sweep's YAML means, and every mistake in it by name."""

from pathlib import Path
from typing import Any

import pytest
from sweep_fixtures import SMALL, make_sweep

from twin_env import list_tasks
from twin_env.config import config_folder
from twin_eval.sweeps.session import check_names, choose_runs
from twin_eval.sweeps.spec import find_sweep, load_sweep, parse_sweep

SWEEPS = sorted(path.stem for path in (config_folder() / "sweeps").glob("*.yaml"))


def test_axes_multiply() -> None:
    grid = {
        "policy.encoder.clip_layer": [3, "final"],
        "clip": {
            "frozen": {"policy.encoder.freeze_clip": True},
            "tuned": {"policy.encoder.freeze_clip": False, "policy": "clip_dp"},
        },
    }
    sweep = make_sweep(grid=grid, set={"train.lr": 0.1})
    assert [variant.label for variant in sweep.variants] == [
        "clip_layer=3,clip=frozen",
        "clip_layer=3,clip=tuned",
        "clip_layer=final,clip=frozen",
        "clip_layer=final,clip=tuned",
    ]
    assert sweep.axes == {"clip_layer": ("3", "final"), "clip": ("frozen", "tuned")}
    tuned = sweep.variants[3]
    assert tuned.policy == "clip_dp"
    assert tuned.settings == {
        "train.lr": 0.1,
        "policy.encoder.clip_layer": "final",
        "policy.encoder.freeze_clip": False,
    }
    assert sweep.variants[0].policy == "clip_dp_small"


def test_runs_come_seed_by_seed() -> None:
    names = [run.name for run in make_sweep().runs]
    assert names[:3] == [
        "beat_block_hammer/clip_layer=0/seed0",
        "beat_block_hammer/clip_layer=1/seed0",
        "click_bell/clip_layer=0/seed0",
    ]
    assert names[4] == "beat_block_hammer/clip_layer=0/seed1"
    assert len(set(names)) == len(names) == 8


def test_an_axis_sets_what_the_base_sets_too() -> None:
    sweep = make_sweep(set={"policy.encoder.clip_layer": 7})
    layers = [variant.settings["policy.encoder.clip_layer"] for variant in sweep.variants]
    assert layers == [0, 1]


def test_axes_of_one_last_word_keep_their_whole_names() -> None:
    sweep = make_sweep(grid={"policy.a.width": [1], "policy.b.width": [2]})
    assert sweep.variants[0].label == "policy.a.width=1,policy.b.width=2"


def test_labels_are_names_of_folders() -> None:
    values: list[Any] = ["ViT-B/32", [96, 128], None, True, 0.5, "../x"]
    sweep = make_sweep(grid={"policy.x": values})
    labels = [variant.values["x"] for variant in sweep.variants]
    assert labels == ["ViT-B-32", "96x128", "none", "true", "0.5", "-x"]
    assert all("/" not in label for label in labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gird": {}}, "unknown key 'gird'; did you mean 'grid'"),
        ({"evaluate": {"n": 3}}, "unknown key of evaluate 'n'"),
        ({"evaluate": {"episodes": 0}}, "episodes must be a whole number of at least 1: got 0"),
        ({"evaluate": {"policy": 3}}, "evaluate.policy must be a word: got 3"),
        ({"demonstrations": True}, "demonstrations must be a whole number"),
        ({"policy": None}, "policy is missing"),
        ({"tasks": []}, "tasks must be a list of names"),
        ({"tasks": ["a", "a"]}, "tasks names something twice"),
        ({"seeds": [0, 0]}, "seeds has one twice"),
        ({"seeds": [-1]}, "seeds must be a list of whole numbers"),
        ({"grid": {}}, "grid must name at least one axis"),
        ({"grid": {"policy.x": []}}, "must be a list of values, or labels"),
        ({"grid": {"policy.x": [1, 1]}}, "has a value twice"),
        ({"grid": {"x": {"a/b": {"policy.x": 1}, "a-b": {"policy.x": 2}}}}, "has a label twice"),
        ({"grid": {"a/b": {"c": {"policy.x": 1}}}}, "an axis of grid is a dotted key or a name"),
        ({"grid": {"encoder.x": [1]}}, "begins with policy. or train., as in policy.encoder"),
        ({"grid": {"train.seed": [1]}}, "give the seeds of training as `seeds`"),
        (
            {"grid": {"policy.x": [1], "y": {"a": {"policy.x": 2}}}},
            "the axes x and y of grid both set policy.x",
        ),
        (
            {"grid": {"policy.cameras": [{}], "y": {"a": {"policy.cameras.head": [1, 2]}}}},
            "both set policy.cameras and policy.cameras.head",
        ),
        ({"baseline": "clip_layer=2"}, "unknown variant as baseline 'clip_layer=2'"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as found:
        parse_sweep({**SMALL, **changes}, name="small", source="small.yaml")
    assert str(found.value).startswith("small.yaml: ")


def test_files_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("policy: dp_resnet\ntasks: click_bell\ngrid: {train.lr: [0.1]}\n")
    sweep = load_sweep(str(path))
    assert (sweep.name, sweep.question, sweep.seeds) == ("mine", "mine", (0,))
    assert find_sweep("clip_layers") == config_folder() / "sweeps" / "clip_layers.yaml"
    with pytest.raises(FileNotFoundError, match="no sweep clip_layer; sweeps here: clip_layers"):
        load_sweep("clip_layer")
    path.write_text("policy: [")
    with pytest.raises(ValueError, match="is no YAML"):
        load_sweep(str(path))
    path.write_text("- a")
    with pytest.raises(ValueError, match="must map keys to values: got list"):
        load_sweep(str(path))


def test_a_part_of_the_variants() -> None:
    sweep = make_sweep()
    assert choose_runs(sweep, []) == list(sweep.runs)
    chosen = choose_runs(sweep, ["clip_layer=1"])
    assert {run.variant.label for run in chosen} == {"clip_layer=1"}
    assert len(chosen) == 4
    with pytest.raises(ValueError, match="unknown variant 'clip_layer=7'"):
        choose_runs(sweep, ["clip_layer=7"])


@pytest.mark.parametrize("name", SWEEPS)
def test_ready_made_sweeps_name_what_is_there(name: str) -> None:
    sweep = load_sweep(name)
    check_names(sweep)
    assert sweep.question.endswith("?")
    assert set(sweep.tasks) <= set(list_tasks())
    first = find_sweep(name).read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith("?")


def test_names_are_looked_up_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="unknown task 'click_bel'; did you mean 'click_bell'"):
        check_names(make_sweep(tasks=["click_bel"]))
    with pytest.raises(ValueError, match="demo_clear"):
        check_names(make_sweep(config="demo_clear"))
    with pytest.raises(ValueError, match=r"begins with .* `evaluate: \{policy: clip_dp\}`"):
        check_names(make_sweep(policy="my_policy"))
    with pytest.raises(ValueError, match="unknown policy 'clipdp'"):
        check_names(make_sweep(evaluate={"policy": "clipdp"}))
