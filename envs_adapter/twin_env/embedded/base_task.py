"""A task on the embedded simulator: RoboTwin's interface over one scene with two arms."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from twin_env.camera_types import CAMERA_TYPES, CameraType
from twin_env.config import complete_env_config, read_embodiment
from twin_env.embedded import cameras, clutter
from twin_env.embedded.actor import Actor
from twin_env.embedded.cameras import Camera
from twin_env.embedded.expert import Expert
from twin_env.embedded.kinematics import ARM_MODELS, UnreachableError
from twin_env.embedded.motion import PHYSICS_HZ, follow, stretch
from twin_env.embedded.observations import SEGMENTATIONS, observe
from twin_env.embedded.randomisation import draw_randomisation
from twin_env.embedded.robot import SIDES, Arm, load_arm
from twin_env.embedded.rotations import Array, quaternion_to_matrix
from twin_env.embedded.scene import TABLE_TOP_M, Scene
from twin_env.embedded.stages import STAGES_EVERY_TICKS, Stages
from twin_env.names import unknown
from twin_env.point_clouds import CloudSpec, crop_over_table
from twin_env.task_env import InvalidActionError, Observation, UnstableError

ACTION_TYPES = ("qpos", "ee")
SETTLE_TICKS = 100
BEYOND_THE_ROOM_M = 5.0
IDLE_ACTION_TICKS = 50
"""What an action costs that moves no arm, as in RoboTwin."""
ACTION_SPEED_RAD_S = 1.0
ACTION_ACCELERATION_RAD_S2 = 1.0


class EmbeddedTask(Stages, Expert):
    """Base of all tasks; a task defines `load_actors`, `play_once`, `check_success`, and its
    `stages` with `check_stages`."""

    step_lim: ClassVar[int] = 400
    settled_speed_m_s: ClassVar[float] = 0.05
    table_xy_bias: ClassVar[tuple[float, float]] = (0.0, 0.0)
    """Where the table's middle stands, metres; RoboTwin's name."""

    def __init__(self) -> None:
        self.seed = 0
        self.take_action_cnt = 0
        self.eval_success = False
        self.plan_success = True
        self.clamped_actions = 0
        self.info: dict[str, Any] = {}
        self.frame_sink: Callable[[EmbeddedTask], None] | None = None
        """Called with the task for each frame that RoboTwin's collection would keep."""
        self._instruction = ""
        self._acted_ticks = 0
        self._frames_kept = 0
        self.clutter: list[clutter.Placed] = []
        """What stands on a cluttered table and is of no task."""
        self._settled_m = {}
        self._scene: Scene | None = None

    # What a task file defines -------------------------------------------------------------

    def load_actors(self) -> None:
        raise NotImplementedError

    def play_once(self) -> dict[str, Any]:
        raise NotImplementedError

    def check_success(self) -> bool:
        raise NotImplementedError

    def watch(self) -> None:
        """Called once a physics tick while an arm may move: for rules about what happened on the
        way, such as shaking. What it remembers begins anew in `load_actors`."""

    # RoboTwin's interface -----------------------------------------------------------------

    def setup_demo(
        self,
        now_ep_num: int = 0,
        seed: int = 0,
        is_test: bool = False,
        *,
        render: bool = True,
        **config: Any,
    ) -> None:
        """Build the scene of `seed` anew and let it come to rest.

        `render=False` builds it without anything visible, for machines or uses without pictures;
        the physics is the same.

        Raises:
            UnstableError: an object still moves afterwards.
        """
        if int(seed) != seed or seed < 0:
            raise ValueError(f"a seed is a whole number from 0 upwards, not {seed!r}")
        self.close_env()
        self.ep_num, self.seed, self.is_test = now_ep_num, int(seed), is_test
        self.config = complete_env_config(config)
        self.rng = np.random.default_rng(self.seed)
        self.take_action_cnt, self.clamped_actions, self.stages_reached = 0, 0, 0
        self.eval_success, self.plan_success = False, True
        self._tick, self._acted_ticks, self._frames_kept = 0, 0, 0
        look = draw_randomisation(
            self.config["domain_randomization"], self.seed, is_test=self.is_test
        )
        self.randomisation = look
        self.table_z_bias = look.table_z_bias_m
        self.info = {"cluttered_table_info": [], "texture_info": look.texture_info(), "info": {}}
        self._scene = Scene(
            render=render,
            shadow_map_size=int(self.config["shadow_map_size"]),
            table_at_m=(*self.table_xy_bias, self.table_top_m),
            lighting=look.lighting,
            flicker=look.flicker(),
            wall_texture=look.wall_texture,
            table_texture=look.table_texture,
        )
        self.arms: dict[str, Arm] = self._load_arms(self._scene)
        self.actors: list[Actor] = []
        self.prohibited_area: list[tuple[float, float, float, float]] = []
        self._cameras: list[Camera] = self._add_cameras(self._scene) if render else []
        self._observers: dict[tuple[int, int] | None, Camera] = {}
        self.load_actors()
        things = clutter.scatter(
            self._scene,
            look.clutter,
            table_at_m=(*self.table_xy_bias, self.table_top_m),
            actors=self.actors,
            prohibited=self.prohibited_area,
            hands_m=[arm.tcp_of(arm.targets_rad)[0] for arm in self.arms.values()],
        )
        for _ in range(SETTLE_TICKS):
            self._scene.step()
        self._require_rest()
        self.clutter = clutter.keep_standing(self._scene, things, self.settled_speed_m_s)
        self.info.update(clutter.describe(look.clutter, things, self.clutter))
        self._settled_m = {actor.get_name(): actor.get_pose().p for actor in self.actors}

    def get_obs(self) -> Observation:
        """RoboTwin's observation of this moment (see `observations.observe`); renders only here.

        `joint_action` holds drive targets, as in RoboTwin; `joint_state` what the physics measures.
        """
        config = self.config
        cloud = CloudSpec(
            n_points=int(config["pcd_down_sample_num"]),
            crop_m=crop_over_table(self.table_z_bias) if config["pcd_crop"] else None,
            all_cameras=config["data_type"]["conbine"],
        )
        return observe(self.scene, self.arms, self._cameras, config["data_type"], cloud)

    def take_action(self, action: NDArray[np.float64], action_type: str = "qpos") -> None:
        """Drive both arms to absolute targets, [left arm, gripper, right arm, right gripper].

        `qpos`: joints in rad, (14,) for two six-joint arms, (16,) for two of seven. `ee`: (16,),
        each arm's tool pose in the world, xyz in metres and quaternion [w, x, y, z], as `endpose`
        gives it. Beyond the joint limits it is clamped, and an arm whose pose is out of reach stays
        where it is; either counts in `clamped_actions`.

        Success is looked at on every physics tick; once it held, further calls do nothing.

        Raises:
            InvalidActionError: wrong shape or not finite.
            UnstableError: the physics left the room.
        """
        if self.take_action_cnt >= self.step_lim or self.eval_success:
            return
        if action_type not in ACTION_TYPES:
            raise unknown("action_type", action_type, ACTION_TYPES)
        scene = self.scene
        goals = self._goals(action, action_type)
        self.take_action_cnt += 1
        paths, grippers, ticks = {}, {}, 0
        for side, goal in goals.items():
            arm = self.arms[side]
            paths[side] = follow(
                np.stack([arm.targets_rad, goal[:-1]]),
                speed=ACTION_SPEED_RAD_S,
                acceleration=ACTION_ACCELERATION_RAD_S2,
            )
            grippers[side] = (arm.gripper, float(goal[-1]))
            ticks = max(ticks, len(paths[side]))
        ticks = ticks or IDLE_ACTION_TICKS
        for side, path in paths.items():
            if len(path):
                paths[side] = stretch(path, ticks)
        moving = [s for s in SIDES if len(paths[s]) or grippers[s][0] != grippers[s][1]]
        for tick in range(ticks):
            share = (tick + 1) / ticks
            for side in moving:
                arm = self.arms[side]
                targets = paths[side][tick] if len(paths[side]) else arm.targets_rad
                start, end = grippers[side]
                arm.drive(targets, start + share * (end - start))
            scene.step()
            self.watch()
            self._acted_ticks += 1
            if self.check_success():
                self._require_sane()
                self.eval_success = True
                self.stages_reached = len(self.stages)
                return
            if self._acted_ticks % STAGES_EVERY_TICKS == 0:
                self._look_at_stages()
        self._require_sane()
        self._look_at_stages()

    def set_instruction(self, instruction: str) -> None:
        self._instruction = instruction

    def get_instruction(self) -> str:
        return self._instruction

    def close_env(self, clear_cache: bool = False) -> None:
        """Drop the scene; the next `setup_demo` builds a new one."""
        self._scene = None
        self.arms, self.actors, self._cameras, self._observers = {}, [], [], {}
        self.clutter = []
        self._settled_m = {}

    # Ours ---------------------------------------------------------------------------------

    @property
    def scene(self) -> Scene:
        if self._scene is None:
            raise RuntimeError("the task has no scene; call setup_demo first")
        return self._scene

    @property
    def sim_time_s(self) -> float:
        """Simulated seconds that this episode's actions took, up to success."""
        return self._acted_ticks / PHYSICS_HZ

    @property
    def expert_steps(self) -> int | None:
        """How many actions replay what the expert did (the length of `expert_actions()`); None
        before it moved."""
        return self._frames_kept - 1 if self._frames_kept else None

    @property
    def table_top_m(self) -> float:
        """Height of the table's top: RoboTwin's 0.74 and the episode's `table_z_bias`."""
        return TABLE_TOP_M + self.table_z_bias

    def add_prohibit_area(self, actor: Actor, padding: float = 0.01) -> None:
        """Keep clutter away from an object: the rectangle it covers and `padding` metres more."""
        low, high = actor.extent_m()
        self.prohibited_area.append(
            (low[0] - padding, low[1] - padding, high[0] + padding, high[1] + padding)
        )

    def drive_vector(self) -> Array:
        """Drive targets (Da,) in RoboTwin's order: arms in rad, grippers in [0, 1]."""
        return np.concatenate(
            [[*self.arms[side].targets_rad, self.arms[side].gripper] for side in SIDES]
        )

    def expert_actions(self) -> Array:
        """(N, Da): the actions that replay the expert on this seed, from a private copy."""
        copy = type(self)()
        vectors: list[Array] = []
        copy.frame_sink = lambda task: vectors.append(task.drive_vector())
        copy.setup_demo(self.ep_num, self.seed, self.is_test, render=False, **self.config)
        copy.play_once()
        copy.close_env()
        return np.stack(vectors[1:])

    def render_video_frame(self, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """(H, W, 3) RGB of the scene as a bystander sees it, by default the head camera's view;
        `size` (width, height) asks for the observer's camera."""
        if size not in self._observers:
            if size is None:
                self._observers[size] = self._head_view()
            else:
                kind = CameraType(*size, fovy_rad=0.72)
                self._observers[size] = cameras.observer_camera(self.scene, kind)
        camera = self._observers[size]
        self.scene.update_render()
        camera.expose()
        return camera.rgb()

    def render_cameras(self, names: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
        """(H, W, 3) RGB of those of the named cameras that the config has, and of no other."""
        wanted = [camera for camera in self._cameras if camera.name in names]
        self.scene.update_render()
        for camera in wanted:
            camera.expose()
        return {camera.name: camera.rgb() for camera in wanted}

    def instructions(self) -> dict[str, list[str]]:
        """RoboTwin's `seen` and `unseen` phrasings, those whose placeholders are known."""
        path = Path(__file__).with_name("tasks") / f"{type(self).__name__}.json"
        known = self.info["info"]
        templates = json.loads(path.read_text(encoding="utf-8"))
        return {
            split: [_fill(text, known) for text in texts if _placeholders(text) <= known.keys()]
            for split, texts in templates.items()
        }

    def _load_arms(self, scene: Scene) -> dict[str, Arm]:
        embodiment = read_embodiment(self.config)
        half = embodiment.distance_m / 2
        return {
            "left": load_arm(scene, "left", ARM_MODELS[embodiment.left], base_x_m=-half),
            "right": load_arm(scene, "right", ARM_MODELS[embodiment.right], base_x_m=half),
        }

    def _add_cameras(self, scene: Scene) -> list[Camera]:
        wanted, data_type = self.config["camera"], self.config["data_type"]
        rendering: dict[str, Any] = {
            "labels": any(data_type[key] for key in SEGMENTATIONS),
            "oversampling": math.isqrt(self.config["samples_per_pixel"]),
        }
        rig = []
        if wanted["collect_head_camera"]:
            kind = CAMERA_TYPES[wanted["head_camera_type"]]
            rig.append(
                cameras.head_camera(
                    scene, kind, offset_m=self.randomisation.head_camera_offset_m, **rendering
                )
            )
        if wanted["collect_wrist_camera"]:
            kind = CAMERA_TYPES[wanted["wrist_camera_type"]]
            names = (cameras.LEFT_WRIST, cameras.RIGHT_WRIST)
            for side, name in zip(SIDES, names, strict=True):
                arm = self.arms[side]
                rig.append(cameras.wrist_camera(scene, arm, name, kind, **rendering))
        if data_type["third_view"]:
            rig.append(cameras.third_view_camera(scene))
        return rig

    def _head_view(self) -> Camera:
        """The head camera, also where the config leaves it out of the observations."""
        for camera in self._cameras:
            if camera.name == cameras.HEAD:
                return camera
        kind = CAMERA_TYPES[self.config["camera"]["head_camera_type"]]
        offset = self.randomisation.head_camera_offset_m
        return cameras.head_camera(self.scene, kind, offset_m=offset)

    def _advance(self, ticks: int = 1) -> None:
        """Step the physics of an expert's motion and keep the frames that are due."""
        for _ in range(ticks):
            self.scene.step()
            self.watch()
            self._tick += 1
            if self._tick % int(self.config["save_freq"]) == 0:
                self._keep_frame()

    def _keep_frame(self) -> None:
        self._require_sane()
        self._frames_kept += 1
        if self.frame_sink is not None:
            self.frame_sink(self)

    def _goals(self, action: NDArray[np.float64], action_type: str) -> dict[str, Array]:
        """Joint targets and gripper (joints + 1,) of each arm, within the limits."""
        goal = np.asarray(action, dtype=np.float64)
        sizes = [arm.model.joints if action_type == "qpos" else 7 for arm in self.arms.values()]
        if goal.shape != (sum(sizes) + 2,):
            arm_of = "arm {}" if action_type == "qpos" else "tool pose {} (xyz, quaternion wxyz)"
            left, right = (arm_of.format(size) for size in sizes)
            raise InvalidActionError(
                f"an action has shape ({sum(sizes) + 2},): [left {left}, gripper, right {right}, "
                f"right gripper]; got {goal.shape}"
            )
        if not np.all(np.isfinite(goal)):
            bad = np.flatnonzero(~np.isfinite(goal)).tolist()
            raise InvalidActionError(f"an action must be finite; elements {bad} are not")
        parts = dict(zip(SIDES, np.split(goal, [sizes[0] + 1]), strict=True))
        beyond = False
        goals = {}
        for side, part in parts.items():
            arm = self.arms[side]
            joints, reached = part[:-1], True
            if action_type == "ee":
                joints, reached = self._joints_of(arm, part[:-1])
            lower, upper = arm.model.limits_rad
            wanted = np.append(joints, part[-1])
            clamped = np.clip(wanted, np.append(lower, 0.0), np.append(upper, 1.0))
            beyond |= not reached or bool(np.any(np.abs(clamped - wanted) > 1e-6))
            goals[side] = clamped
        self.clamped_actions += beyond
        return goals

    def _joints_of(self, arm: Arm, pose: Array) -> tuple[Array, bool]:
        """Joints for a tool pose (7,), and whether it is in reach: if not, they stay."""
        if np.linalg.norm(pose[3:]) < 1e-3:
            raise InvalidActionError(
                f"a pose ends in a quaternion [w, x, y, z] of length 1, not {pose[3:].tolist()}"
            )
        try:
            return arm.solve(pose[:3], quaternion_to_matrix(pose[3:])), True
        except UnreachableError:
            return arm.targets_rad, False

    def _require_rest(self) -> None:
        for actor in self.actors:
            if not actor.speed_m_s() < self.settled_speed_m_s:
                raise UnstableError(
                    f"{actor.get_name()} still moves at {actor.speed_m_s():.3f} m/s after "
                    f"{SETTLE_TICKS} ticks (seed {self.seed})"
                )

    def _require_sane(self) -> None:
        """Walls keep what falls or rolls inside the room: only physics that explodes leaves it."""
        for actor in self.actors:
            position = actor.get_pose().p
            if not (np.all(np.isfinite(position)) and np.max(np.abs(position)) < BEYOND_THE_ROOM_M):
                raise UnstableError(
                    f"{actor.get_name()} left the room: {position.tolist()} (seed {self.seed})"
                )
        for side, arm in self.arms.items():
            if not np.all(np.isfinite(arm.articulation.qpos)):
                raise UnstableError(f"the {side} arm's joints are not finite (seed {self.seed})")


def _placeholders(text: str) -> set[str]:
    return {"{" + name + "}" for _, name, _, _ in string.Formatter().parse(text) if name}


def _fill(text: str, values: Mapping[str, str]) -> str:
    for key, value in values.items():
        text = text.replace(key, value)
    return text
