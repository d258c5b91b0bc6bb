"""Videos: which episodes, how many pictures, at what pace, and never at the episode's expense."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from twin_env.mp4 import BAR_HEIGHT, COLOURS, FPS, write_mp4
from twin_eval import video
from twin_eval.records import Outcome
from twin_eval.video import HOLD_FRAMES, Film, VideoMode

HEAD, LEFT, RIGHT = "head_camera", "left_camera", "right_camera"


class Clocks:
    """Wall and CPU time that pass only when told to."""

    def __init__(self) -> None:
        self.now = np.zeros(2)

    def __call__(self) -> np.ndarray:
        return self.now.copy()


@pytest.fixture(autouse=True)
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Also forgets what the process learnt of its costs."""
    clocks = Clocks()
    monkeypatch.setattr(video, "_clocks", clocks)
    monkeypatch.setattr(Film, "_slowness", 1.0)
    monkeypatch.setattr(Film, "_rendering", {})
    return clocks


class Scene:
    """A world whose pictures' brightness is the step; RoboTwin's has no way to render more."""

    step_lim = 40
    stages = ("touched", "lifted up")

    def __init__(self, clocks: Clocks, *, action_s: float = 0.1) -> None:
        self.take_action_cnt = self.stages_reached = 0
        self.eval_success = False
        self._clocks, self._action_s = clocks, action_s

    def picture(self) -> np.ndarray:
        return np.full((48, 64, 3), 20 + 4 * self.take_action_cnt, dtype=np.uint8)

    def get_obs(self, *cameras: str) -> dict[str, Any]:
        return {"observation": {camera: {"rgb": self.picture()} for camera in cameras}}

    def act(self, film: Film) -> None:
        self._clocks.now += self._action_s
        self.take_action_cnt += 1
        film.acted(self)


class RenderedScene(Scene):
    """Ours renders when asked, at a price."""

    def __init__(self, clocks: Clocks, *, action_s: float = 0.1, picture_s: float = 0.0) -> None:
        super().__init__(clocks, action_s=action_s)
        self.picture_s = picture_s
        self.rendered: list[int] = []

    def render_video_frame(self) -> np.ndarray:
        self._clocks.now += self.picture_s
        self.rendered.append(self.take_action_cnt)
        return self.picture()

    def render_cameras(self, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        self.render_video_frame()
        return {name: self.picture() for name in names}


def play(film: Film, scene: Scene, *, steps: int, look_every: int, cameras: Any = (HEAD,)) -> None:
    for step in range(steps):
        if step % look_every == 0:
            film.saw(scene, scene.get_obs(*cameras))
        scene.act(film)


def read(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """The pictures of an MP4, RGB, and the seconds at which they appear."""
    capture = cv2.VideoCapture(str(path))
    pictures, seconds = [], []
    while (answer := capture.read())[0]:
        pictures.append(cv2.cvtColor(answer[1], cv2.COLOR_BGR2RGB))
        seconds.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    capture.release()
    return pictures, seconds


def steps_shown(pictures: list[np.ndarray]) -> list[int]:
    """The steps at which they were taken, by their brightness."""
    return [round((picture[100:200, 100:200].mean() - 20) / 4) for picture in pictures]


@pytest.mark.parametrize(
    ("text", "filmed", "kept_of_success", "kept_of_failure"),
    [
        ("off", [], [], []),
        ("first:2", [0, 1], [0, 1], [0, 1]),
        ("2", [0, 1], [0, 1], [0, 1]),
        ("first:0", [], [], []),
        ("failures", [0, 1, 2], [], [0, 1, 2]),
        ("all", [0, 1, 2], [0, 1, 2], [0, 1, 2]),
    ],
)
def test_modes(
    text: str, filmed: list[int], kept_of_success: list[int], kept_of_failure: list[int]
) -> None:
    mode = VideoMode.parse(text)
    assert [index for index in range(3) if mode.wants(index)] == filmed
    assert [index for index in range(3) if mode.keeps(index, "success")] == kept_of_success
    for outcome in ("failure", "error"):
        assert [index for index in range(3) if mode.keeps(index, outcome)] == kept_of_failure


def test_no_videos_by_default_means_none() -> None:
    assert VideoMode.none() == VideoMode.parse("off")


@pytest.mark.parametrize("text", ["", "some", "first", "first:", "first:-1", "first:x", "-3", "²"])
def test_other_modes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"off, failures, first:K or all .*: got '"):
        VideoMode.parse(text)


def test_unknown_cameras_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\['all', 'head'\]: got 'wrist'"):
        Film(tmp_path / "film.mp4", "t", cameras="wrist")


def test_pictures_of_the_policy_keep_their_time(tmp_path: Path, clocks: Clocks) -> None:
    film = Film(tmp_path / "videos" / "film.mp4", "task | policy | seed 1")
    play(film, Scene(clocks, action_s=1.0), steps=10, look_every=4)
    assert film.finish("failure", keep=True)
    pictures, seconds = read(film.path)
    assert steps_shown(pictures[:3]) == [0, 4, 8]
    assert np.round(np.multiply(seconds, FPS)).tolist() == [0, 4, 8, 10, 10 + HOLD_FRAMES - 1]
    assert [path.name for path in film.path.parent.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize("outcome", ["success", "failure", "error"])
def test_the_result_frames_the_last_picture(
    tmp_path: Path, clocks: Clocks, outcome: Outcome
) -> None:
    film = Film(tmp_path / "film.mp4", "t")
    play(film, Scene(clocks), steps=3, look_every=1)
    assert film.finish(outcome, keep=True)
    pictures, _ = read(film.path)
    borders = [picture[1:4, 10:600].mean(axis=(0, 1)) for picture in (pictures[0], pictures[-1])]
    assert np.ptp(borders[0]) < 6, "grey before"
    assert np.abs(borders[1] - COLOURS[outcome]).max() < 25


def test_the_bar_tells_the_stage_once_it_is_reached(tmp_path: Path, clocks: Clocks) -> None:
    def stage_pixels(reached: int) -> float:
        film = Film(tmp_path / f"film{reached}.mp4", "t")
        scene = Scene(clocks)
        scene.stages_reached = reached
        play(film, scene, steps=1, look_every=1)
        assert film.finish("failure", keep=True)
        bar = read(film.path)[0][-1][-BAR_HEIGHT // 2 :]
        return float(bar[:, 110:300].std())

    assert stage_pixels(0) < 3
    assert stage_pixels(1) > 15
    assert stage_pixels(2) > 15


@pytest.mark.parametrize("pictures", [1, 2, 700])
def test_any_number_of_pictures_keeps_its_time(tmp_path: Path, pictures: int) -> None:
    starts = [3 * number + number % 2 for number in range(pictures)]
    shades = (number % 2 * 255 for number in range(pictures))
    frames = (memoryview(np.full(16 * 16 * 3 // 2, shade, np.uint8)) for shade in shades)
    path = tmp_path / "long.mp4"
    write_mp4(path, frames, starts, width=16, height=16)
    capture = cv2.VideoCapture(str(path))
    times = []
    while capture.read()[0]:
        times.append(round(capture.get(cv2.CAP_PROP_POS_MSEC) / 50))
    capture.release()
    assert times == starts


def test_without_keep_there_is_no_file(tmp_path: Path, clocks: Clocks) -> None:
    film = Film(tmp_path / "videos" / "film.mp4", "t")
    play(film, Scene(clocks), steps=3, look_every=1)
    assert not film.finish("success", keep=False)
    assert not list(tmp_path.rglob("*.mp4"))


def test_cheap_pictures_are_rendered_between_looks(tmp_path: Path, clocks: Clocks) -> None:
    scene = RenderedScene(clocks, action_s=1.0)
    film = Film(tmp_path / "film.mp4", "t")
    play(film, scene, steps=10, look_every=10)
    assert scene.rendered == [2, 4, 6, 8, 10]
    assert film.finish("failure", keep=True)
    assert steps_shown(read(film.path)[0])[:5] == [0, 2, 4, 6, 8]


def test_a_policy_that_looks_after_each_action_is_filmed_for_nothing(
    tmp_path: Path, clocks: Clocks
) -> None:
    scene = RenderedScene(clocks)
    film = Film(tmp_path / "film.mp4", "t")
    play(film, scene, steps=scene.step_lim, look_every=1)
    assert scene.rendered == [scene.step_lim]


def test_rendering_and_encoding_stay_within_their_share(tmp_path: Path, clocks: Clocks) -> None:
    scene = RenderedScene(clocks, action_s=0.5, picture_s=0.25)
    film = Film(tmp_path / "film.mp4", "t")
    play(film, scene, steps=scene.step_lim, look_every=100)
    unfilmed_s = 0.5 * scene.step_lim
    assert 3 <= len(scene.rendered) <= video.COST_SHARE * unfilmed_s / scene.picture_s
    assert film.finish("failure", keep=True)
    _, seconds = read(film.path)
    assert seconds[-1] == pytest.approx((scene.step_lim + HOLD_FRAMES - 1) / FPS), "the pace stays"


def test_encoding_leaves_out_what_cannot_be_paid_for(tmp_path: Path, clocks: Clocks) -> None:
    scene = Scene(clocks, action_s=0.05)
    film = Film(tmp_path / "film.mp4", "t")
    play(film, scene, steps=30, look_every=1)
    assert film.finish("failure", keep=True)
    shown = steps_shown(read(film.path)[0])
    budget_s = video.COST_SHARE * 0.05 * 30
    picture_s = video.MEGAPIXEL_S * 640 * (480 + BAR_HEIGHT) / 1e6
    encoded = int((budget_s - video.START_S) / picture_s)
    assert 5 <= len(shown) == encoded < 30
    gaps = np.diff(shown[:-2])
    assert shown[0] == 0
    assert gaps.max() - gaps.min() <= 1, "evenly"


def test_first_and_last_are_shown_whatever_they_cost(tmp_path: Path, clocks: Clocks) -> None:
    scene = RenderedScene(clocks, action_s=0.001, picture_s=5.0)
    film = Film(tmp_path / "film.mp4", "t")
    play(film, scene, steps=scene.step_lim, look_every=100, cameras=())
    assert scene.rendered == [0, scene.step_lim]
    assert film.finish("failure", keep=True)
    assert steps_shown(read(film.path)[0]) == [0, scene.step_lim, scene.step_lim]


def test_a_crash_is_shown_with_what_was_seen_last(tmp_path: Path, clocks: Clocks) -> None:
    film = Film(tmp_path / "film.mp4", "t")
    scene = Scene(clocks)
    film.saw(scene, scene.get_obs(HEAD))
    assert film.finish("error", keep=True)
    _, seconds = read(film.path)
    assert np.round(np.multiply(seconds, FPS)).tolist() == [0, HOLD_FRAMES - 1]


def test_all_cameras_stand_side_by_side(tmp_path: Path, clocks: Clocks) -> None:
    def filmed(cameras: str, *seen: str) -> np.ndarray:
        film = Film(tmp_path / "film.mp4", "t", cameras=cameras)
        scene = RenderedScene(clocks, action_s=1.0)
        play(film, scene, steps=6, look_every=10, cameras=seen)
        assert film.finish("failure", keep=True)
        pictures, _ = read(film.path)
        assert len(pictures) == 5
        return pictures[0]

    assert filmed("head", LEFT, HEAD, RIGHT).shape == (480 + BAR_HEIGHT, 640, 3)
    assert filmed("all", LEFT, HEAD, RIGHT).shape == (144 + BAR_HEIGHT, 576, 3)
    assert filmed("all", HEAD).shape == (480 + BAR_HEIGHT, 640, 3), "no other is there"


def test_memory_is_bounded(tmp_path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_PICTURES", 10)
    film = Film(tmp_path / "film.mp4", "t")
    play(film, Scene(clocks, action_s=10.0), steps=39, look_every=1)
    assert film.finish("failure", keep=True)
    shown = steps_shown(read(film.path)[0])
    assert 5 <= len(shown) <= 12
    assert np.diff(shown[:-2]).tolist() == [4] * (len(shown) - 3)


def test_what_a_policy_does_to_its_pictures_is_not_filmed(tmp_path: Path, clocks: Clocks) -> None:
    film = Film(tmp_path / "film.mp4", "t")
    scene = Scene(clocks)
    observation = scene.get_obs(HEAD)
    film.saw(scene, observation)
    observation["observation"][HEAD]["rgb"][:] = 255
    assert film.finish("failure", keep=True)
    assert steps_shown(read(film.path)[0]) == [0, 0]


def test_errors_of_filming_are_logged_and_go_no_further(
    tmp_path: Path, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    class Blind(RenderedScene):
        def render_video_frame(self) -> np.ndarray:
            raise RuntimeError("no Vulkan device")

    film = Film(tmp_path / "film.mp4", "t")
    play(film, Blind(clocks), steps=5, look_every=1, cameras=())
    assert not film.finish("failure", keep=True)
    assert f"no video {film.path}: RuntimeError: no Vulkan device" in caplog.text


def test_an_encoder_that_fails_leaves_nothing(
    tmp_path: Path,
    clocks: Clocks,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: "false")
    film = Film(tmp_path / "film.mp4", "t")
    play(film, Scene(clocks), steps=5, look_every=1)
    assert not film.finish("failure", keep=True)
    assert "ffmpeg ended with status 1" in caplog.text
    assert not list(tmp_path.iterdir())


def test_an_episode_without_pictures_has_no_video(
    tmp_path: Path, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    film = Film(tmp_path / "film.mp4", "t")
    play(film, Scene(clocks), steps=5, look_every=1, cameras=())
    assert not film.finish("failure", keep=True)
    assert "the episode had no picture" in caplog.text


@pytest.mark.simulator
def test_filming_the_simulator_changes_no_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twin_env import load_env_config, make_env

    monkeypatch.undo()  # The real clocks.
    env: Any = make_env("beat_block_hammer")

    def seen_and_done(film: Film | None) -> list[np.ndarray]:
        env.setup_demo(seed=100_000, is_test=True, **load_env_config("demo_clean"))
        target = env.drive_vector()
        seen = []
        for step in range(8):
            observation = env.get_obs()
            seen += [observation["observation"][HEAD]["rgb"], env.drive_vector()]
            if film:
                film.saw(env, observation)
            for _ in range(3):
                env.take_action(target + 0.02 * step)
                if film:
                    film.acted(env)
        return [*seen, env.actors[0].get_pose().p]

    film = Film(tmp_path / "film.mp4", "t", cameras="all")
    filmed, unfilmed = seen_and_done(film), seen_and_done(None)
    for one, other in zip(filmed, unfilmed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert film.finish("failure", keep=True)
    assert read(film.path)[0][0].shape == (240 + BAR_HEIGHT, 960, 3)
