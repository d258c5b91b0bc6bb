"""The contact sheet: which tasks, where their pictures go, and what is refused."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from twin_env import UnstableError, gallery, list_tasks, load_env_config
from twin_env.gallery import GAP_PX, LABEL_PX, MARGIN_PX, Picture
from twin_eval.cli import main


def plain(value: int) -> Picture:
    return np.full((30, 40, 3), value, np.uint8)


class NeverDone:
    """A task whose scene never rests on even seeds and whose expert fails on odd ones."""

    plan_success = False

    def setup_demo(self, *, seed: int, **_: Any) -> None:
        if seed % 2 == 0:
            raise UnstableError("still moves")

    def play_once(self) -> None:
        pass


def test_a_scene_is_shown_once_whatever_rules_it_is_judged_by() -> None:
    shown = gallery.telling_tasks()
    assert {f"{task}_strict" for task in shown} & set(list_tasks())
    assert not [task for task in shown if task.endswith("_strict")]
    assert {task.removesuffix("_strict") for task in list_tasks()} == set(shown)


def test_every_picture_is_on_the_sheet_in_reading_order() -> None:
    tiles = {
        f"task{place}": [(plain(8 * place + 1), plain(8 * place + 2)), (plain(8 * place + 3),) * 2]
        for place in range(4)
    }
    sheet = gallery.contact_sheet(tiles)
    block_height = LABEL_PX + 2 * (30 + GAP_PX)
    assert sheet.shape == (
        2 * (block_height + MARGIN_PX) + MARGIN_PX,
        3 * (80 + GAP_PX + MARGIN_PX) + MARGIN_PX,
        3,
    )
    for place, pairs in enumerate(tiles.values()):
        row, column = divmod(place, 3)
        top = MARGIN_PX + row * (block_height + MARGIN_PX)
        left = MARGIN_PX + column * (80 + GAP_PX + MARGIN_PX)
        label = sheet[top : top + LABEL_PX, left : left + 80]
        assert label.min() < 100, "the task's name"
        for line, pair in enumerate(pairs):
            y = top + LABEL_PX + line * (30 + GAP_PX)
            for half, picture in enumerate(pair):
                x = left + half * (40 + GAP_PX)
                np.testing.assert_array_equal(sheet[y : y + 30, x : x + 40], picture)


@pytest.mark.parametrize("tasks", [1, 2, 3, 12])
def test_tiles_fill_the_sheets_width(tasks: int) -> None:
    width, height = gallery.tile_size_px(tasks)
    pictures = [(np.zeros((height, width, 3), np.uint8),) * 2]
    sheet = gallery.contact_sheet({f"t{n}": pictures for n in range(tasks)})
    assert gallery.SHEET_PX - 8 <= sheet.shape[1] <= gallery.SHEET_PX


def test_a_task_that_nobody_can_show_says_which_seeds_were_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gallery, "make_env", lambda task: NeverDone())
    with pytest.raises(RuntimeError, match=r"lift_pot: .* seeds 4 to 23; give another --seed"):
        gallery.photograph("lift_pot", {}, seed=4, size_px=(40, 30))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "clik_bell"], "unknown task 'clik_bell'; did you mean 'click_bell'?"),
        (["--configs", "demo_clen"], "'demo_clen'; did you mean 'demo_clean'?"),
        (["--embodiment", "twin-arm8"], "'twin-arm8'; did you mean"),
        (["--seed", "-3"], "--seed is 0 or more, not -3"),
        (["--configs", "none.yml"], "--configs none.yml: no such file"),
        (["--out", "gallery.jpg"], "--out names a PNG file"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_rendered(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gallery", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.simulator
def test_the_command_writes_a_sheet_of_real_scenes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures" / "sheet.png"
    words = ["--tasks", "click_bell", "--configs", "demo_clean", "--embodiment", "twin-arm7"]
    assert main(["gallery", *words, "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["sheet.png"]
    assert out.stat().st_size < 2.5e6
    sheet = cv2.imread(str(out))
    width, height = gallery.tile_size_px(1)
    y, x = MARGIN_PX + LABEL_PX, MARGIN_PX
    before = sheet[y : y + height, x : x + width].astype(int)
    during = sheet[y : y + height, x + width + GAP_PX : x + 2 * width + GAP_PX].astype(int)
    assert before.shape == during.shape
    moved = np.abs(before - during).max(axis=2) > 30
    assert 0.01 < moved.mean() < 0.6, "an arm has moved, and the room has not"


@pytest.mark.simulator
def test_pictures_are_of_the_first_seed_on_which_the_expert_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from twin_env.embedded.tasks.click_bell import click_bell

    done = click_bell.check_success
    monkeypatch.setattr(click_bell, "check_success", lambda env: env.seed != 0 and done(env))
    shown = gallery.photograph(
        "click_bell", load_env_config("demo_clean"), seed=0, size_px=(80, 60)
    )
    assert shown.seed == 1
    assert [picture.shape for picture in shown.pictures] == [(60, 80, 3)] * 2
