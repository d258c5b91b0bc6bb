"""Domain randomisation: each axis by itself, drawn from the seed, paired with the clean scene."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twin_env import load_env_config, make_env
from twin_env.config import DEFAULTS, complete_env_config, config_folder
from twin_env.embedded import clutter
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.clutter_kinds import KINDS
from twin_env.embedded.randomisation import Randomisation, draw_randomisation, flickering
from twin_env.embedded.scene import TABLE_SIZE_M, TABLE_TOP_M
from twin_env.embedded.textures import SIZE, family_of, texture, texture_names
from twin_env.workers import Done, WorkerPool

TASK = "beat_block_hammer"
CLEAN = DEFAULTS["domain_randomization"]
AXES: dict[str, dict[str, Any]] = {
    "background": {"random_background": True, "clean_background_rate": 0},
    "clutter": {"cluttered_table": True, "clean_background_rate": 0},
    "light": {"random_light": True},
    "table_height": {"random_table_height": 0.03},
    "head_camera": {"random_head_camera_dis": 0.05},
}
FIELDS = {
    "background": ("wall_texture", "table_texture"),
    "clutter": ("clutter",),
    "light": ("lighting", "flicker_seed"),
    "table_height": ("table_z_bias_m",),
    "head_camera": ("head_camera_offset_m",),
}
EVERYTHING = {key: value for axis in AXES.values() for key, value in axis.items()}


def section(given: Mapping[str, Any]) -> dict[str, Any]:
    return {**CLEAN, **given}


# What is drawn ----------------------------------------------------------------------------


def test_nothing_asked_for_is_the_clean_scene() -> None:
    assert draw_randomisation(CLEAN, 7) == Randomisation()


def test_a_seed_is_drawn_the_same_again_and_other_seeds_otherwise() -> None:
    drawn = [draw_randomisation(section(EVERYTHING), seed) for seed in (3, 4, 3)]
    assert drawn[0] == drawn[2]
    for axis, fields in FIELDS.items():
        assert [getattr(drawn[0], field) for field in fields] != [
            getattr(drawn[1], field) for field in fields
        ], axis


@pytest.mark.parametrize("axis", AXES)
def test_an_axis_is_the_same_alone_as_together_with_the_others(axis: str) -> None:
    for seed in range(20):
        together = draw_randomisation(section(EVERYTHING), seed)
        alone = draw_randomisation(section(AXES[axis]), seed)
        for field in vars(alone):
            expected = together if field in FIELDS[axis] else Randomisation()
            assert getattr(alone, field) == getattr(expected, field)


def test_two_strengths_of_an_axis_are_paired() -> None:
    for seed in range(20):
        weak, strong = (
            draw_randomisation(
                section({"random_table_height": scale * 0.03, "random_head_camera_dis": scale}),
                seed,
            )
            for scale in (0.1, 0.2)
        )
        assert strong.table_z_bias_m == pytest.approx(2 * weak.table_z_bias_m)
        np.testing.assert_allclose(
            strong.head_camera_offset_m, 2 * np.array(weak.head_camera_offset_m)
        )


def test_draws_stay_within_what_was_asked_for() -> None:
    drawn = [draw_randomisation(section(EVERYTHING), seed) for seed in range(200)]
    heights = [one.table_z_bias_m for one in drawn]
    assert -0.03 <= min(heights) < -0.025
    assert -0.005 < max(heights) <= 0.0
    offsets = [np.linalg.norm(one.head_camera_offset_m) for one in drawn]
    assert 0.045 < max(offsets) <= 0.05
    for one in drawn:
        steepness = -np.array(one.lighting.key.direction)[2]
        assert np.cos(np.radians(45.0)) - 1e-9 <= steepness <= np.cos(np.radians(10.0)) + 1e-9
        assert min(one.lighting.ambient) > 0.2


def test_the_clean_rate_decides_for_wall_table_and_clutter_each() -> None:
    def shares(rate: float) -> list[float]:
        asked = section({**EVERYTHING, "clean_background_rate": rate})
        drawn = [draw_randomisation(asked, seed) for seed in range(300)]
        return [
            float(np.mean([one.wall_texture is None for one in drawn])),
            float(np.mean([one.table_texture is None for one in drawn])),
            float(np.mean([one.clutter == () for one in drawn])),
        ]

    assert shares(0) == [0, 0, 0]
    assert shares(1) == [1, 1, 1]
    np.testing.assert_allclose(shares(0.3), 0.3, atol=0.09)


def test_evaluation_sees_textures_that_collection_never_shows() -> None:
    asked = section(EVERYTHING)
    for is_test, split in ((False, "seen"), (True, "unseen")):
        looks = section(AXES["background"])
        drawn = [draw_randomisation(looks, seed, is_test=is_test) for seed in range(400)]
        for field in ("wall_texture", "table_texture"):
            assert {getattr(one, field) for one in drawn} == set(texture_names(split))
    one, other = (draw_randomisation(asked, 5, is_test=test) for test in (False, True))
    assert (one.clutter, one.lighting, one.table_z_bias_m) == (
        other.clutter,
        other.lighting,
        other.table_z_bias_m,
    )


def test_flickering_light_depends_on_the_moment_alone() -> None:
    asked = section({"random_light": True, "crazy_random_light_rate": 1})
    drawn = draw_randomisation(asked, 9)
    light = drawn.flicker()
    assert light is not None
    assert light(40) == light(40) == flickering(drawn.lighting, 9, 40)
    assert light(40) != light(41)
    assert light(40).key.direction == drawn.lighting.key.direction
    assert draw_randomisation(section({"random_light": True}), 9).flicker() is None
    assert draw_randomisation(section({"random_light": True}), 9).lighting == drawn.lighting


# Textures ---------------------------------------------------------------------------------


def test_there_are_enough_textures_and_no_family_is_both_seen_and_unseen() -> None:
    seen, unseen = texture_names("seen"), texture_names("unseen")
    assert len(seen) >= 24
    assert len(unseen) >= 12
    assert {family_of(name) for name in seen}.isdisjoint(family_of(name) for name in unseen)
    with pytest.raises(ValueError, match="unknown texture 'unseen/99'"):
        texture("unseen/99")


@pytest.mark.parametrize("name", ["seen/0", "seen/13", "unseen/0", "unseen/6"])
def test_a_texture_is_made_from_its_name_and_repeats_without_a_seam(name: str) -> None:
    pixels = texture(name)
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    again = texture.__wrapped__(name)
    np.testing.assert_array_equal(pixels, again)
    for axis in (0, 1):
        steps = np.abs(np.diff(pixels.astype(float), axis=axis, append=pixels.take([0], axis=axis)))
        lines = steps.mean(axis=(1 - axis, 2))
        assert lines[-1] <= lines[:-1].max() + 1.0


# Clutter ----------------------------------------------------------------------------------


def test_clutter_keeps_clear_of_hands_prohibited_areas_and_itself() -> None:
    area = (-0.2, -0.1, 0.25, 0.2)
    hand = (0.3, -0.23)
    assert len(KINDS) >= 12
    for seed in range(30):
        candidates = clutter.draw_candidates(np.random.default_rng(seed))
        chosen = clutter.choose(
            candidates, table_at_m=(0.1, 0.0), keep_out=[area], hands_m=[hand], actor_names=[]
        )
        assert 7 <= len(chosen) <= clutter.WANTED
        circles = [(np.array(at), KINDS[one.kind].radius_m) for one, at in chosen]
        for index, (at, radius) in enumerate(circles):
            half = np.array(TABLE_SIZE_M[:2]) / 2
            assert np.all(np.abs(at - (0.1, 0.0)) + radius <= half)
            nearest = np.clip(at, area[:2], area[2:])
            assert np.linalg.norm(at - nearest) >= radius
            assert np.linalg.norm(at - hand) > radius
            for other, its_radius in circles[:index]:
                assert np.linalg.norm(at - other) > radius + its_radius


def test_a_full_table_has_less_clutter_and_none_like_the_tasks_objects() -> None:
    candidates = clutter.draw_candidates(np.random.default_rng(0))

    def kinds(*actor_names: str, keep_out: tuple[clutter.Box, ...] = ()) -> list[str]:
        chosen = clutter.choose(
            candidates,
            table_at_m=(0.0, 0.0),
            keep_out=keep_out,
            hands_m=[],
            actor_names=actor_names,
        )
        return [one.kind for one, _ in chosen]

    assert kinds(keep_out=((-1.0, -1.0, 1.0, 1.0),)) == []
    assert 0 < len(kinds(keep_out=((-1.0, -1.0, 0.35, 1.0),))) < clutter.WANTED
    assert "mug" not in kinds("021_cup")
    assert "flacon" not in kinds("001_bottle")


def test_every_kind_stands_within_its_circle() -> None:
    for name, kind in KINDS.items():
        reach = 0.0
        for part in kind.build(kind.colors[0]):
            if part.kind == "box":
                corner = np.abs(part.at_m[:2]) + part.size_m[:2]
                reach = max(reach, float(np.linalg.norm(corner)))
            elif part.mesh is not None:
                reach = max(reach, float(np.linalg.norm(part.mesh.vertices_m[:, :2], axis=1).max()))
        assert reach <= kind.radius_m + 0.002, name
        assert reach >= kind.radius_m - 0.008, name


# Configs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"random_backgroud": True}, "did you mean 'random_background'"),
        ({"random_table_height": -0.03}, r"random_table_height is from 0 to 0\.1 .*not -0\.03"),
        ({"random_table_height": 3}, r"random_table_height is from 0 to 0\.1 .*not 3"),
        ({"random_head_camera_dis": float("nan")}, "random_head_camera_dis .*not nan"),
        ({"clean_background_rate": 2}, "clean_background_rate is from 0 to 1 .*not 2"),
        ({"random_light": 0.5}, "random_light must be a truth value"),
        ({"crazy_random_light_rate": 0.1}, "does nothing while random_light is false"),
        ({"random_light": True, "crazy_random_light_rate": 1.5}, r"from 0 to 1 .*not 1\.5"),
        ({"random_embodiment": True}, "random_embodiment is not offered"),
    ],
)
def test_bad_keys_and_values_are_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        complete_env_config({"domain_randomization": given}, source="my.yml")


def test_each_axis_config_changes_its_axis_alone() -> None:
    for name in ("background", "clutter", "light", "table_height", "head_camera"):
        config = load_env_config(f"random_{name}")
        assert {**config, "domain_randomization": CLEAN} == DEFAULTS
        drawn = draw_randomisation(config["domain_randomization"], 3)
        changed = {field for field in vars(drawn) if getattr(drawn, field) != _clean(field)}
        assert changed <= set(FIELDS[name])
        assert changed
    assert Path(config_folder(), "demo_randomized.yml").is_file()


def _clean(field: str) -> object:
    return getattr(Randomisation(), field)


# Scenes -----------------------------------------------------------------------------------


def scene_of(seed: int, given: Mapping[str, Any], *, is_test: bool = False) -> EmbeddedTask:
    env = make_env(TASK)
    assert isinstance(env, EmbeddedTask)
    env.setup_demo(
        seed=seed, is_test=is_test, **complete_env_config({"domain_randomization": given})
    )
    return env


def randomised_pictures(seed: int) -> list[np.ndarray]:
    """A start and a later moment, everything random and flickering."""
    asked = {**EVERYTHING, "crazy_random_light_rate": 1}
    env = scene_of(seed, asked)
    pictures = []
    for _ in range(2):
        pictures += [view["rgb"] for view in env.get_obs()["observation"].values()]
        target = env.drive_vector()
        target[0] += 0.05
        env.take_action(target)
    env.close_env()
    return pictures


@pytest.mark.simulator
def test_a_seed_looks_the_same_in_any_process_and_order() -> None:
    here = randomised_pictures(3)
    randomised_pictures(4)
    again = randomised_pictures(3)
    with WorkerPool(1, randomised_pictures) as pool:
        ((_, elsewhere),) = pool.run([3])
    assert isinstance(elsewhere, Done), elsewhere
    for one, other, third in zip(here, again, elsewhere.value, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)


@pytest.mark.simulator
def test_flickering_pictures_do_not_depend_on_how_often_one_looked() -> None:
    asked = {"random_light": True, "crazy_random_light_rate": 1}
    pictures = []
    for looks in (0, 3):
        env = scene_of(2, asked)
        start = env.get_obs()["observation"]["head_camera"]["rgb"].copy()
        for _ in range(looks):
            env.render_video_frame()
        env.take_action(env.drive_vector())
        pictures.append(env.get_obs()["observation"]["head_camera"]["rgb"].copy())
        assert not np.array_equal(start, pictures[-1])
        env.close_env()
    np.testing.assert_array_equal(*pictures)


def physics_of(env: EmbeddedTask) -> np.ndarray:
    for _ in range(3):
        target = env.drive_vector()
        target[1] += 0.1
        env.take_action(target)
    parts = [arm.articulation.qpos for arm in env.arms.values()]
    parts += [np.concatenate([actor.get_pose().p, actor.get_pose().q]) for actor in env.actors]
    return np.concatenate(parts)


@pytest.mark.simulator
def test_looks_alone_leave_physics_bit_for_bit() -> None:
    clean = scene_of(5, {})
    axes = ("background", "light", "head_camera")
    looks = {key: value for axis in axes for key, value in AXES[axis].items()}
    other = scene_of(5, {**looks, "crazy_random_light_rate": 1}, is_test=True)
    clean_picture, other_picture = (
        env.get_obs()["observation"]["head_camera"]["rgb"] for env in (clean, other)
    )
    assert np.mean(np.abs(clean_picture.astype(int) - other_picture)) > 10
    assert all(name.startswith("unseen/") for name in other.info["texture_info"].values())
    np.testing.assert_array_equal(physics_of(clean), physics_of(other))


@pytest.mark.simulator
def test_the_tasks_objects_stay_where_they_are_in_the_clean_scene() -> None:
    for seed in range(3):
        clean, randomised = scene_of(seed, {}).scene_layout(), scene_of(seed, EVERYTHING)
        layout = randomised.scene_layout()
        assert layout.keys() == clean.keys()
        for name, at in layout.items():
            expected = np.add(clean[name], [0.0, 0.0, randomised.table_z_bias])
            np.testing.assert_allclose(at, expected, atol=2e-4)


@pytest.mark.simulator
def test_clutter_stands_on_the_lowered_table_and_is_recorded() -> None:
    env = scene_of(1, EVERYTHING)
    assert env.table_top_m == TABLE_TOP_M + env.table_z_bias < TABLE_TOP_M
    assert len(env.clutter) == len(env.info["cluttered_table_info"]) >= 8
    assert env.info["clutter"]["wanted"] == clutter.WANTED
    for thing in env.clutter:
        pose = thing.actor.get_pose()
        assert thing.actor.get_name().startswith(clutter.PREFIX)
        assert abs(pose.p[2] - env.table_top_m) < 2e-3
        assert thing.actor.speed_m_s() < 0.01
    names = {actor.get_name() for actor in env.actors}
    assert not any(name.startswith(clutter.PREFIX) for name in names)


@pytest.mark.simulator
def test_what_does_not_stand_still_is_taken_away() -> None:
    env = scene_of(1, AXES["clutter"])
    first = env.clutter[0]
    body: Any = first.actor.get_body()
    body.linear_velocity = [0.0, 0.0, 1.0]
    kept = clutter.keep_standing(env.scene, env.clutter, 0.05)
    assert kept == env.clutter[1:]
    assert first.actor.get_name() not in {e.name for e in env.scene.sapien.entities}
    told = clutter.describe(env.randomisation.clutter, env.clutter, kept)
    assert told["clutter"]["taken_away"] == 1
    assert len(told["cluttered_table_info"]) == len(kept)


@pytest.mark.simulator
def test_the_head_cameras_matrices_move_with_it() -> None:
    clean, moved = (
        scene_of(2, given).get_obs()["observation"] for given in ({}, AXES["head_camera"])
    )
    offset = draw_randomisation(section(AXES["head_camera"]), 2).head_camera_offset_m
    head = [view["head_camera"]["cam2world_gl"][:3, 3] for view in (clean, moved)]
    np.testing.assert_allclose(head[1] - head[0], offset, atol=1e-6)
    for name in ("left_camera", "right_camera"):
        np.testing.assert_array_equal(clean[name]["rgb"], moved[name]["rgb"])
