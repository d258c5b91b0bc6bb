"""The renderer canary: small differences of a driver pass, a wrong renderer does not."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import twin_env
from twin_env import environment_fingerprint, load_env_config
from twin_env.canary import IDENTICAL_DB, LEAST_PSNR_DB, check_renderer, judge, psnr

FOLDER = Path(twin_env.__file__).parent / "embedded" / "assets" / "canary"
REFERENCES: dict[str, Any] = {
    path.stem: cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
    for path in sorted(FOLDER.glob("*.png"))
}


def noise(sigma: float) -> Callable[[Any], Any]:
    def add(picture: Any) -> Any:
        disturbed = picture + np.random.default_rng(0).normal(0.0, sigma, picture.shape)
        return disturbed.round().clip(0, 255).astype(np.uint8)

    return add


def jpeg(quality: int) -> Callable[[Any], Any]:
    def squeeze(picture: Any) -> Any:
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.imdecode(data, cv2.IMREAD_COLOR)

    return squeeze


def shifted(pixels: float) -> Callable[[Any], Any]:
    way = np.array([[1.0, 0.0, pixels], [0.0, 1.0, pixels]])

    def shift(picture: Any) -> Any:
        size = picture.shape[1], picture.shape[0]
        return cv2.warpAffine(picture, way, size, borderMode=cv2.BORDER_REPLICATE)

    return shift


def test_there_is_a_reference_for_every_kind_of_camera() -> None:
    assert set(REFERENCES) == {"head_camera", "left_camera", "observer_camera"}


def test_psnr_is_the_textbooks() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black) == IDENTICAL_DB
    assert psnr(black + np.uint8(255), black) == pytest.approx(0.0)
    assert psnr(black + np.uint8(1), black) == pytest.approx(48.1308, abs=1e-4)


@pytest.mark.parametrize("change", [noise(2), noise(3), jpeg(90), jpeg(75), shifted(0.1)])
def test_what_another_driver_may_do_passes(change: Callable[[Any], Any]) -> None:
    check = judge({name: change(p) for name, p in REFERENCES.items()}, REFERENCES)
    assert check.ok, check
    assert max(check.psnr_db.values()) < 60.0  # Something did change.
    assert (check.reason, check.remedy) == ("", "")


@pytest.mark.parametrize(
    ("change", "likeness"),
    [
        (lambda picture: np.zeros_like(picture), "it is black"),
        (lambda picture: picture[..., ::-1], "red and blue are swapped"),
        (lambda picture: picture[::-1], "it is upside down"),
        (noise(25), None),
        (lambda picture: picture[:, ::-1], None),
        (shifted(1.0), None),
    ],
)
def test_a_wrong_renderer_is_refused_and_described(
    change: Callable[[Any], Any], likeness: str | None
) -> None:
    wrong = {name: change(p) for name, p in REFERENCES.items()}
    check = judge(wrong, REFERENCES, device="some GPU")
    assert not check.ok
    assert all(value < LEAST_PSNR_DB for value in check.psnr_db.values())
    assert "head_camera" in check.reason
    assert check.reason.endswith(f"({likeness})" if likeness else "wanted")
    assert "twinbench doctor): some GPU rendered" in check.remedy


def test_one_wrong_camera_is_enough() -> None:
    wrong = {**REFERENCES, "left_camera": np.zeros_like(REFERENCES["left_camera"])}
    check = judge(wrong, REFERENCES)
    assert not check.ok
    assert "left_camera" in check.reason
    assert "head_camera" not in check.reason
    assert check.digest != judge(REFERENCES, REFERENCES).digest


def test_references_of_another_scene_are_an_error() -> None:
    smaller = {name: picture[:-1] for name, picture in REFERENCES.items()}
    with pytest.raises(ValueError, match=r"differ in cameras or sizes.*--write"):
        judge(smaller, REFERENCES)
    with pytest.raises(ValueError, match="differ in cameras or sizes"):
        judge({"head_camera": REFERENCES["head_camera"]}, REFERENCES)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="unknown backend 'embeded'; did you mean 'embedded'"):
        check_renderer("embeded")


def test_the_canary_does_not_make_plans_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = environment_fingerprint("beat_block_hammer", load_env_config("demo_clean"))
    read = Path.read_bytes
    touched = []

    def disturbed(path: Path) -> bytes:
        if path.is_relative_to(FOLDER) or "canary" in path.name:
            touched.append(path)
            return b"other"
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", disturbed)
    again = environment_fingerprint("beat_block_hammer", load_env_config("demo_clean"))
    assert again == fingerprint
    assert not touched


@pytest.mark.simulator
def test_this_machines_renderer_passes_and_is_named() -> None:
    check = check_renderer()
    assert check.ok, check
    assert set(check.psnr_db) == set(REFERENCES)
    assert check.device
    assert check_renderer() == check


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("shadow_map_size", "passes"), [(0, False), (256, True), (512, True), (1024, True)]
)
def test_missing_shadows_are_seen_and_coarser_ones_are_not(
    shadow_map_size: int, passes: bool
) -> None:
    from twin_env.embedded.canary import canary

    env = canary()
    env.setup_demo(seed=0, shadow_map_size=shadow_map_size)
    views = env.get_obs()["observation"]
    env.close_env()
    check = judge({name: view["rgb"] for name, view in views.items()}, REFERENCES)
    assert check.ok == passes, check


@pytest.mark.simulator
@pytest.mark.parametrize("missing", ["ambient", "sun", "fill"])
def test_a_missing_light_is_seen(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sapien

    from twin_env.embedded.canary import render_canary

    add = sapien.Scene.add_directional_light

    def without(scene: Any, direction: Any, color: Any, *args: Any, **options: Any) -> Any:
        is_sun = bool(options.get("shadow"))
        off = missing == ("sun" if is_sun else "fill")
        return add(scene, direction, [0.0] * 3 if off else color, *args, **options)

    monkeypatch.setattr(sapien.Scene, "add_directional_light", without)
    if missing == "ambient":
        monkeypatch.setattr(sapien.Scene, "set_ambient_light", lambda *_: None)
    assert not judge(render_canary(), REFERENCES).ok


@pytest.mark.simulator
def test_the_command_checks_and_says_what_it_saw() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twin_env.canary"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    check = check_renderer()
    assert f"{check.device}, digest {check.digest}: head_camera" in done.stdout
    assert done.stdout.endswith("ok\n")


@pytest.mark.simulator
def test_without_a_vulkan_device_the_error_names_the_remedy(tmp_path: Path) -> None:
    none = {**os.environ, "VK_ICD_FILENAMES": str(tmp_path), "VK_DRIVER_FILES": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "twin_env.canary"],
        env=none,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "run `twinbench doctor` to see what to install" in done.stderr
