"""One SAPIEN scene: physics settings, renderer, lights, the room, and rigid objects."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import sapien
from numpy.typing import NDArray

from twin_env.embedded import materials
from twin_env.embedded.materials import Finish
from twin_env.embedded.motion import PHYSICS_HZ

ASSETS = Path(__file__).with_name("assets")
TABLE_TOP_M = 0.74
TABLE_SIZE_M = (1.24, 0.74, 0.04)
TABLE_REPEAT_M, WALL_REPEAT_M = 0.62, 1.0
"""After how far a texture comes again."""

Triple = tuple[float, float, float]


class RenderingUnavailableError(RuntimeError):
    """No Vulkan device can render."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles of a surface, counted against the clock as seen from outside."""

    vertices_m: NDArray[np.float32]
    """(V, 3)."""
    triangles: NDArray[np.uint32]
    """(F, 3) rows of `vertices_m`."""
    normals: NDArray[np.float32]
    """(V, 3), of length 1, pointing outwards."""
    uvs: NDArray[np.float32]
    """(V, 2) where on a texture."""


@dataclass(frozen=True)
class Part:
    """One piece of an object: what is seen and what collides."""

    kind: str
    """"box", "cylinder" or "capsule" (both along x), "sphere", or "mesh"."""
    size_m: tuple[float, ...]
    """Half sizes (3,) of a box; (radius, half length) of a cylinder or capsule; (radius,); () of a
    mesh."""
    finish: Finish
    at_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    """[w, x, y, z] in the object's frame."""
    collides: bool = True
    """A mesh collides as the convex hull of its vertices."""
    visible: bool = True
    mesh: Mesh | None = None


@dataclass(frozen=True)
class DirectionalLight:
    """Light from far away."""

    direction: Triple
    """Where it shines to, in the world."""
    color: Triple
    """Linear red, green and blue."""


@dataclass(frozen=True)
class Lighting:
    """All light of a scene; the defaults are the clean scene's."""

    ambient: Triple = (0.44, 0.45, 0.47)
    """Linear, from all sides."""
    key: DirectionalLight = DirectionalLight((-0.35, 0.45, -1.0), (0.70, 0.68, 0.64))
    """Throws shadows."""
    fill: DirectionalLight = DirectionalLight((0.7, 0.2, -0.6), (0.14, 0.15, 0.18))
    shadow_half_size_m: float = 0.7
    """Half of what the shadow map covers across the key light, about the middle of the table."""
    shadow_far_m: float = 0.45
    """How far below the middle of the table, along the key light, shadows are looked for."""


CLEAN_LIGHTING = Lighting()


@functools.lru_cache(maxsize=1)
def _renderer() -> sapien.render.RenderSystem:
    """The process's first render system, kept alive: the next ones start at once."""
    sapien.render.set_log_level("error")
    sapien.render.set_camera_shader_dir(str(ASSETS / "shaders"))
    sapien.render.set_picture_format("Color", "r8g8b8a8unorm")
    try:
        return sapien.render.RenderSystem(render_device())
    except RuntimeError as error:
        raise RenderingUnavailableError(
            "rendering needs a Vulkan device and none was found "
            f"({error}); run `twinbench doctor` to see what to install"
        ) from error


def render_device() -> sapien.Device:
    """A GPU that can render, where SAPIEN finds one, else the CPU."""
    for name in ("cuda", "cpu"):
        try:
            device = sapien.Device(name)
        except RuntimeError:
            continue
        if name == "cpu" or device.can_render():
            return device
    raise AssertionError("SAPIEN always has a CPU device")


@functools.lru_cache(maxsize=1)
def _configure_physics() -> None:
    """Process-wide PhysX settings under which thin convex pieces behave."""
    sapien.set_log_level("error")
    sapien.physx.set_scene_config(
        gravity=np.array([0.0, 0.0, -9.81]),
        bounce_threshold=2.0,
        enable_pcm=False,
        enable_tgs=True,
    )
    sapien.physx.set_shape_config(contact_offset=0.003, rest_offset=0.0)
    sapien.physx.set_body_config(solver_position_iterations=12, solver_velocity_iterations=1)
    sapien.physx.set_default_material(0.6, 0.5, 0.0)


class Scene:
    """A room with a table, ready for robots and objects; rebuilt for every episode."""

    def __init__(
        self,
        *,
        render: bool,
        shadow_map_size: int = 512,
        table_at_m: tuple[float, float, float] = (0.0, 0.0, TABLE_TOP_M),
        lighting: Lighting = CLEAN_LIGHTING,
        flicker: Callable[[int], Lighting] | None = None,
        wall_texture: str | None = None,
        table_texture: str | None = None,
    ) -> None:
        """`flicker` gives the colours of the light at a physics tick, where they change."""
        _configure_physics()
        self.renders = render
        self.ticks = 0
        """Physics steps so far."""
        self._flicker = flicker
        self.physics = sapien.physx.PhysxCpuSystem()
        systems: list[sapien.System] = [self.physics]
        if render:
            _renderer()
            systems.append(sapien.render.RenderSystem(render_device()))
        self.sapien = sapien.Scene(systems)
        self.physics.timestep = 1.0 / PHYSICS_HZ
        if render:
            self._add_lights(lighting, shadow_map_size, table_at_m)
        self._add_room(table_at_m, wall_texture, table_texture)

    def step(self) -> None:
        self.physics.step()
        self.ticks += 1

    def update_render(self) -> None:
        """Show the cameras where everything is now, in the light of now."""
        if self._flicker is not None:
            light = self._flicker(self.ticks)
            self.sapien.set_ambient_light(light.ambient)
            self._key.color, self._fill.color = light.key.color, light.fill.color
        self.sapien.update_render()

    def add_object(
        self,
        name: str,
        parts: Sequence[Part],
        position_m: Sequence[float],
        quaternion: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
        *,
        static: bool = False,
        density_kg_m3: float = 400.0,
        friction: float = 0.6,
    ) -> sapien.Entity:
        """A rigid object made of parts; quaternion [w, x, y, z] in the world."""
        if static:
            body = sapien.physx.PhysxRigidStaticComponent()
        else:
            body = sapien.physx.PhysxRigidDynamicComponent()
            body.max_depenetration_velocity = 1.0
        surface = sapien.physx.PhysxMaterial(friction, friction, 0.0)
        for part in parts:
            if part.collides:
                shape = _collision_shape(part, surface)
                shape.local_pose = sapien.Pose(part.at_m, part.quaternion)
                shape.density = density_kg_m3
                body.attach(shape)
        entity = sapien.Entity()
        entity.name = name
        entity.add_component(body)
        if self.renders and any(part.visible for part in parts):
            look = sapien.render.RenderBodyComponent()
            finishes = dict.fromkeys(part.finish for part in parts if part.visible)
            painted = {finish: finish.render_material() for finish in finishes}
            for part in parts:
                if part.visible:
                    seen = _render_shape(part, painted[part.finish])
                    seen.local_pose = sapien.Pose(part.at_m, part.quaternion)
                    look.attach(seen)
            entity.add_component(look)
        entity.set_pose(sapien.Pose(position_m, quaternion))
        self.sapien.add_entity(entity)
        return entity

    def _add_lights(
        self, lighting: Lighting, shadow_map_size: int, table_at_m: tuple[float, float, float]
    ) -> None:
        self.sapien.set_ambient_light(lighting.ambient)
        # The shadow map holds the table and what is on it; the floor is beyond its far plane,
        # since filling the map is most of what shadows cost on a CPU.
        x, y, z = table_at_m
        self._key = self.sapien.add_directional_light(
            lighting.key.direction,
            lighting.key.color,
            shadow=shadow_map_size > 0,
            position=[x, y - 0.05, z + 0.16],
            shadow_scale=lighting.shadow_half_size_m,
            shadow_near=-1.0,
            shadow_far=lighting.shadow_far_m,
            shadow_map_size=max(shadow_map_size, 1),
        )
        self._fill = self.sapien.add_directional_light(lighting.fill.direction, lighting.fill.color)

    def _add_room(
        self,
        table_at_m: tuple[float, float, float],
        wall_texture: str | None,
        table_texture: str | None,
    ) -> None:
        width, depth, thickness = TABLE_SIZE_M
        height = table_at_m[2]
        top = replace(materials.TABLE, texture=table_texture, repeat_m=TABLE_REPEAT_M)
        wall = replace(materials.WALL, texture=wall_texture, repeat_m=WALL_REPEAT_M)
        half = (width / 2, depth / 2, thickness / 2)
        table = [
            Part("box", half, top, (0.0, 0.0, -thickness / 2)),
            *(
                Part(
                    "box",
                    (0.03, 0.03, (height - thickness) / 2),
                    materials.TABLE_EDGE,
                    (x, y, -(height + thickness) / 2),
                    collides=False,
                )
                for x in (-half[0] + 0.05, half[0] - 0.05)
                for y in (-half[1] + 0.05, half[1] - 0.05)
            ),
            Part(
                "box",
                (half[0] - 0.03, half[1] - 0.03, 0.03),
                materials.TABLE_EDGE,
                (0.0, 0.0, -thickness - 0.03),
                collides=False,
            ),
        ]
        self.add_object("table", table, table_at_m, static=True)
        room = [
            Part("box", (3.0, 3.0, 0.05), materials.FLOOR, (0.0, 0.0, -0.05)),
            Part("box", (3.0, 0.05, 1.5), wall, (0.0, 1.0, 1.5)),
            Part("box", (3.0, 0.05, 1.5), wall, (0.0, -2.0, 1.5)),
            Part("box", (0.05, 3.0, 1.5), wall, (-2.0, 0.0, 1.5)),
            Part("box", (0.05, 3.0, 1.5), wall, (2.0, 0.0, 1.5)),
        ]
        self.add_object("room", room, (0.0, 0.0, 0.0), static=True)


def _collision_shape(
    part: Part, surface: sapien.physx.PhysxMaterial
) -> sapien.physx.PhysxCollisionShape:
    if part.kind == "box":
        return sapien.physx.PhysxCollisionShapeBox(part.size_m, surface)
    if part.kind == "cylinder":
        return sapien.physx.PhysxCollisionShapeCylinder(*part.size_m, surface)
    if part.kind == "capsule":
        return sapien.physx.PhysxCollisionShapeCapsule(*part.size_m, surface)
    if part.kind == "sphere":
        return sapien.physx.PhysxCollisionShapeSphere(*part.size_m, surface)
    if part.mesh is None:
        raise _unknown_kind(part)
    return sapien.physx.PhysxCollisionShapeConvexMesh(part.mesh.vertices_m, np.ones(3), surface)


def _render_shape(part: Part, material: sapien.render.RenderMaterial) -> sapien.render.RenderShape:
    if part.kind == "box" and part.finish.texture is not None:
        mesh = _box_with_uvs(part.size_m, part.finish.repeat_m)
        return sapien.render.RenderShapeTriangleMesh(
            mesh.vertices_m, mesh.triangles, mesh.normals, mesh.uvs, material
        )
    if part.kind == "box":
        return sapien.render.RenderShapeBox(part.size_m, material)
    if part.kind == "cylinder":
        return sapien.render.RenderShapeCylinder(*part.size_m, material)
    if part.kind == "capsule":
        return sapien.render.RenderShapeCapsule(*part.size_m, material)
    if part.kind == "sphere":
        return sapien.render.RenderShapeSphere(*part.size_m, material)
    if part.mesh is None:
        raise _unknown_kind(part)
    mesh = part.mesh
    return sapien.render.RenderShapeTriangleMesh(
        mesh.vertices_m, mesh.triangles, mesh.normals, mesh.uvs, material
    )


@functools.lru_cache(maxsize=32)
def _box_with_uvs(half_m: tuple[float, ...], repeat_m: float) -> Mesh:
    """A box on whose faces a texture comes again every `repeat_m`, its right and its up along the
    world's axes."""
    vertices, normals, uvs = [], [], []
    for axis, right, up in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        for side in (-1.0, 1.0):
            # Seen from outside, the corners go round against the clock.
            turn = side if axis != 1 else -side
            for a, b in ((-1.0, -turn), (1.0, -turn), (1.0, turn), (-1.0, turn)):
                corner, normal = np.zeros(3), np.zeros(3)
                corner[axis], corner[right], corner[up] = side, a, b
                corner *= half_m
                normal[axis] = side
                vertices.append(corner)
                normals.append(normal)
                uvs.append((corner[right] / repeat_m, -corner[up] / repeat_m))
    triangles = [(i, i + j, i + j + 1) for i in range(0, 24, 4) for j in (1, 2)]
    return Mesh(
        np.array(vertices, np.float32),
        np.array(triangles, np.uint32),
        np.array(normals, np.float32),
        np.array(uvs, np.float32),
    )


def _unknown_kind(part: Part) -> ValueError:
    return ValueError(
        f"a part is a box, cylinder, capsule, sphere or mesh (with its `mesh`), not {part.kind!r}"
    )
