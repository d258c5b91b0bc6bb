"""Observations of the embedded simulator: RoboTwin's keys, and pictures true to the scene."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from twin_env import make_env
from twin_env.config import complete_env_config
from twin_env.embedded.base_task import EmbeddedTask
from twin_env.embedded.cameras import Camera
from twin_env.embedded.observations import actor_colors, palette
from twin_env.episodes import read_episode, write_episode
from twin_env.point_clouds import CROP_M

pytestmark = pytest.mark.simulator

TASK, SEED = "beat_block_hammer", 2
CAMERAS = ("head_camera", "left_camera", "right_camera")
PICTURES = ("depth", "mesh_segmentation", "actor_segmentation", "pointcloud", "third_view")


def scene(*data_types: str, **changes: Any) -> EmbeddedTask:
    """The task on one seed, with what is off by default turned on."""
    env = make_env(TASK)
    assert isinstance(env, EmbeddedTask)
    config = complete_env_config({"data_type": dict.fromkeys(data_types, True), **changes})
    env.setup_demo(seed=SEED, **config)
    return env


@pytest.fixture(scope="module")
def env() -> Iterator[EmbeddedTask]:
    env = scene(*PICTURES)
    yield env
    env.close_env()


@pytest.fixture(scope="module")
def obs(env: EmbeddedTask) -> dict[str, Any]:
    return env.get_obs()


def world_points(view: dict[str, Any]) -> np.ndarray:
    """(H, W, 3) metres, by OpenCV's convention: a way of its own to use depth and matrices."""
    height, width = view["depth"].shape
    v, u = np.mgrid[:height, :width] + 0.5
    pixels = np.stack([u, v, np.ones_like(u)], axis=-1)
    in_camera = pixels @ np.linalg.inv(view["intrinsic_cv"]).T * view["depth"][..., None] / 1000
    rotation, shift = np.split(view["extrinsic_cv"].astype(float), [3], axis=1)
    return (in_camera - shift[:, 0]) @ rotation


def pixels_of(env: EmbeddedTask, view: dict[str, Any], name: str) -> np.ndarray:
    """(H, W) where a camera shows the actor."""
    color = actor_colors(env.scene.sapien)[name]
    return np.all(view["actor_segmentation"] == color, axis=-1)


def test_every_key_has_robotwins_shape_and_type(obs: dict[str, Any]) -> None:
    expected = {
        "rgb": (np.uint8, (240, 320, 3)),
        "depth": (np.float64, (240, 320)),
        "mesh_segmentation": (np.uint8, (240, 320, 3)),
        "actor_segmentation": (np.uint8, (240, 320, 3)),
        "intrinsic_cv": (np.float32, (3, 3)),
        "extrinsic_cv": (np.float32, (3, 4)),
        "cam2world_gl": (np.float32, (4, 4)),
    }
    assert set(obs["observation"]) == set(CAMERAS)
    for view in obs["observation"].values():
        assert {key: (value.dtype, value.shape) for key, value in view.items()} == expected
    assert obs["third_view_rgb"].dtype == np.uint8
    assert obs["third_view_rgb"].shape == (240, 320, 3)
    assert obs["pointcloud"].dtype == np.float32
    assert obs["pointcloud"].shape == (1024, 6)
    names = ["left_arm", "left_gripper", "right_arm", "right_gripper", "vector"]
    assert sorted(obs["joint_action"]) == sorted(obs["joint_state"]) == names


def test_what_is_off_is_left_out_as_in_robotwin() -> None:
    env = scene(data_type={"rgb": False, "endpose": False, "qpos": False})
    obs = env.get_obs()
    matrices = {"intrinsic_cv", "extrinsic_cv", "cam2world_gl"}
    assert {name: set(view) for name, view in obs["observation"].items()} == dict.fromkeys(
        CAMERAS, matrices
    )
    assert obs["endpose"] == obs["joint_action"] == obs["joint_state"] == {}
    assert obs["pointcloud"] == []
    assert "third_view_rgb" not in obs


@pytest.mark.parametrize(
    ("data_type", "rendered"),
    [
        ({"rgb": False}, []),
        ({"rgb": False, "pointcloud": True}, ["head_camera"]),
        ({"rgb": False, "third_view": True}, ["third_view"]),
        ({"rgb": True, "pointcloud": True}, list(CAMERAS)),
        ({"rgb": False, "pointcloud": True, "conbine": True}, list(CAMERAS)),
    ],
)
def test_only_the_cameras_that_are_asked_for_render(
    data_type: dict[str, bool], rendered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = scene(data_type=data_type, pcd_crop=False)
    exposed: list[str] = []
    expose = Camera.expose
    monkeypatch.setattr(Camera, "expose", lambda self: (exposed.append(self.name), expose(self))[1])
    env.get_obs()
    assert exposed == rendered


def test_colours_are_the_same_under_both_shader_packs(obs: dict[str, Any]) -> None:
    """Plain scenes before and after: neither pack changes what the other renders."""
    plain, labelled, again = scene(), scene("mesh_segmentation"), scene()
    views = [env.get_obs()["observation"] for env in (plain, labelled, again, plain)]
    for name in CAMERAS:
        for other in (*views[1:], obs["observation"]):
            np.testing.assert_array_equal(views[0][name]["rgb"], other[name]["rgb"])


def test_segmentation_does_not_depend_on_what_else_the_process_rendered(
    obs: dict[str, Any],
) -> None:
    other = scene("mesh_segmentation", "actor_segmentation").get_obs()
    for name in CAMERAS:
        for key in ("mesh_segmentation", "actor_segmentation"):
            np.testing.assert_array_equal(
                obs["observation"][name][key], other["observation"][name][key]
            )


def test_the_cameras_matrices_agree(obs: dict[str, Any]) -> None:
    """`cam2world_gl` undoes `extrinsic_cv`, but for y and z, which OpenGL turns round."""
    for view in obs["observation"].values():
        back = view["extrinsic_cv"] @ view["cam2world_gl"]
        np.testing.assert_allclose(back, np.diag([1.0, -1.0, -1.0, 1.0])[:3], atol=1e-6)


@pytest.mark.parametrize(("name", "margin_m"), [("020_hammer", 0.005), ("box", 0.002)])
def test_an_actors_pixels_lie_on_it(
    env: EmbeddedTask, obs: dict[str, Any], name: str, margin_m: float
) -> None:
    """Depth, matrices and segmentation at once: each of its pixels is a point of its surface. The
    hammer's rims, which do not collide, stand out by 3 mm."""
    view = obs["observation"]["head_camera"]
    actor = next(actor for actor in env.actors if actor.get_name() == name)
    pixels = pixels_of(env, view, name)
    assert pixels.sum() > 100
    points = world_points(view)[pixels]
    low, high = actor.extent_m()
    assert np.all(points > low - margin_m)
    assert np.all(points < high + margin_m)
    assert points[:, 2].max() == pytest.approx(high[2], abs=0.002)


def test_depth_at_a_known_point_leads_back_to_it(env: EmbeddedTask, obs: dict[str, Any]) -> None:
    view = obs["observation"]["head_camera"]
    top = env.block.get_functional_point(1).p
    u, v, depth_m = view["intrinsic_cv"] @ (view["extrinsic_cv"] @ [*top, 1.0])
    row, column = int(v / depth_m), int(u / depth_m)
    assert pixels_of(env, view, "box")[row, column]
    assert view["depth"][row, column] == pytest.approx(1000 * depth_m, abs=2.0)
    # A pixel is some 2 mm wide there, and its middle may be half of that away.
    np.testing.assert_allclose(world_points(view)[row, column], top, atol=0.002)


@pytest.mark.parametrize("name", CAMERAS)
def test_every_camera_sees_the_table_at_its_height(
    env: EmbeddedTask, obs: dict[str, Any], name: str
) -> None:
    view = obs["observation"][name]
    heights = world_points(view)[pixels_of(env, view, "table")][:, 2]
    assert len(heights) > 10_000
    # At its edge a camera sees the table's side, too.
    np.testing.assert_allclose(np.median(heights), env.table_top_m, atol=0.0005)
    assert heights.max() < env.table_top_m + 0.002


def test_depth_is_zero_where_nothing_is(env: EmbeddedTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room has holes: beyond a camera's far plane is what comes nearest to one."""
    (head,) = (camera for camera in env._cameras if camera.name == "head_camera")
    monkeypatch.setattr(head._component, "far", 0.9)
    depth = env.get_obs()["observation"]["head_camera"]["depth"]
    assert depth.max() < 900.0
    assert (depth == 0.0).any()
    assert depth[depth > 0.0].min() > 500.0


def test_the_point_cloud_is_of_what_stands_on_the_table(
    env: EmbeddedTask, obs: dict[str, Any]
) -> None:
    cloud = obs["pointcloud"]
    points = cloud[cloud.any(axis=1)]
    low, high = CROP_M
    assert np.all(points[:, :3] >= np.float32(low))
    assert np.all(points[:, :3] <= np.float32(high))
    assert np.all((points[:, 3:] >= 0.0) & (points[:, 3:] <= 1.0))
    extents = [actor.extent_m() for actor in env.actors]
    on_actors = [
        np.all((points[:, :3] > low - 0.002) & (points[:, :3] < high + 0.002), axis=1)
        for low, high in extents
    ]
    assert all(on.sum() > 20 for on in on_actors)
    red = points[on_actors[[actor.get_name() for actor in env.actors].index("box")]]
    assert np.median(red[:, 3]) > 2 * np.median(red[:, 4])
    np.testing.assert_array_equal(env.get_obs()["pointcloud"], cloud)


def test_a_whole_point_cloud_has_a_point_a_pixel() -> None:
    changes = {"pcd_crop": False, "pcd_down_sample_num": 0}
    env = scene("pointcloud", **changes)
    assert env.get_obs()["pointcloud"].shape == (320 * 240, 6)


def test_the_measured_state_lags_behind_the_drive_target() -> None:
    """With arms of two kinds, whose parts of the vector differ in width."""
    env = scene(embodiment=["twin-arm6", "twin-arm7", 0.6])
    goal = env.drive_vector()
    assert goal.shape == (15,)
    goal[0] += 0.5
    env.take_action(goal)
    obs = env.get_obs()
    target, measured = obs["joint_action"], obs["joint_state"]
    np.testing.assert_array_equal(target["vector"], goal)
    assert 0.005 < abs(target["vector"][0] - measured["vector"][0]) < 0.2
    for group in (target, measured):
        parts = [*group["left_arm"], group["left_gripper"], *group["right_arm"]]
        np.testing.assert_array_equal(group["vector"], [*parts, group["right_gripper"]])
        assert (len(group["left_arm"]), len(group["right_arm"])) == (6, 7)
    np.testing.assert_array_equal(measured["left_arm"], env.arms["left"].measured_rad())


def test_everything_is_written_as_robotwin_stores_it(obs: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "episode0.hdf5"
    write_episode(path, [obs, obs])
    with h5py.File(path) as file:
        head = file["observation/head_camera"]
        assert (head["depth"].dtype, head["depth"].shape) == (np.float64, (2, 240, 320))
        np.testing.assert_array_equal(head["depth"][0], obs["observation"]["head_camera"]["depth"])
        for key in ("mesh_segmentation", "actor_segmentation"):
            assert (head[key].dtype, head[key].shape) == (np.uint8, (2, 240, 320, 3))
        assert file["third_view_rgb"].dtype.kind == "S"
        assert file["third_view_rgb"].shape == (2,)
        assert file["pointcloud"].shape == (2, 1024, 6)
        assert file["joint_state/vector"].shape == (2, 14)
    episode = read_episode(path)
    assert episode.cameras == CAMERAS
    np.testing.assert_array_equal(episode.vector[0], obs["joint_action"]["vector"])


def test_a_point_cloud_whose_size_changes_is_not_written(
    obs: dict[str, Any], tmp_path: Path
) -> None:
    shorter = {**obs, "pointcloud": obs["pointcloud"][:-1]}
    with pytest.raises(ValueError, match=r"pointcloud changes its shape.*pcd_down_sample_num > 0"):
        write_episode(tmp_path / "episode0.hdf5", [obs, shorter])
    assert list(tmp_path.iterdir()) == []


def test_a_video_shows_the_head_cameras_view_without_that_camera(obs: dict[str, Any]) -> None:
    env = scene(camera={"collect_head_camera": False})
    assert "head_camera" not in env.get_obs()["observation"]
    np.testing.assert_array_equal(
        env.render_video_frame(), obs["observation"]["head_camera"]["rgb"]
    )


def test_the_palettes_colours_are_all_different() -> None:
    colors = palette()
    assert len(np.unique(colors, axis=0)) == len(colors) == 1331
    assert not colors[0].any()
    near = np.abs(colors[1:33, None].astype(int) - colors[None, 1:33]).max(axis=-1)
    assert np.all(near + 255 * np.eye(32, dtype=int) > 50)


def test_more_samples_a_pixel_smooth_edges_and_move_nothing() -> None:
    views = {}
    for samples in (1, 4):
        env = scene("depth", "actor_segmentation", samples_per_pixel=samples)
        views[samples] = env.get_obs()["observation"]["head_camera"]
        env.close_env()
    rough, smooth = views[1], views[4]
    for key in ("rgb", "depth", "actor_segmentation"):
        assert rough[key].shape == smooth[key].shape
    np.testing.assert_allclose(rough["intrinsic_cv"], smooth["intrinsic_cv"], rtol=1e-5)
    change = np.abs(rough["rgb"].astype(int) - smooth["rgb"]).max(axis=-1)
    # Edges change, surfaces do not; the picture as a whole stays where it is.
    assert 0 < np.mean(change > 8) < 0.1
    assert np.median(np.abs(rough["depth"] - smooth["depth"])) < 2.0


@pytest.mark.parametrize("samples", [0, 2, 25])
def test_samples_a_pixel_are_a_square(samples: int) -> None:
    with pytest.raises(ValueError, match=f"samples_per_pixel is one of 1, 4, 9, 16, not {samples}"):
        scene(samples_per_pixel=samples)
