"""The journal: resumes, survives torn lines, refuses other runs and second processes."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from test_records_and_report import record

from twin_env.files import FolderInUseError
from twin_eval.journal import JOURNAL_NAME, RUN_NAME, JournalError, open_journal, read_journal

RUN = {"task": "reach_number", "checkpoint": "aaaa"}


def fill(folder: Path, *indices: int) -> None:
    with open_journal(folder, RUN, {}) as journal:
        for index in indices:
            journal.append(record(index))


def test_reopened_journal_has_what_was_appended(tmp_path: Path) -> None:
    fill(tmp_path, 1, 0)
    with open_journal(tmp_path, RUN, {}) as journal:
        assert [r.index for r in journal.records] == [0, 1]
        assert journal.has(1)
        assert not journal.has(2)


def test_torn_last_line_is_cut_and_the_rest_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 0, 1)
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(path.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING), open_journal(tmp_path, RUN, {}) as journal:
        assert [r.index for r in journal.records] == [0]
        journal.append(record(1))
    assert "torn line" in caplog.text
    assert [r.index for r in read_journal(tmp_path)] == [0, 1]


def test_reading_never_changes_a_journal_that_another_process_writes(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1)
    path = tmp_path / JOURNAL_NAME
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    assert [r.index for r in read_journal(tmp_path)] == [0]
    assert path.read_bytes() == torn


def test_damage_elsewhere_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1, 2)
    path = tmp_path / JOURNAL_NAME
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:30], lines[2]]) + "\n")
    with pytest.raises(JournalError, match=r"journal\.jsonl line 2"):
        read_journal(tmp_path)


def test_no_episode_twice(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    with (
        open_journal(tmp_path, RUN, {}) as journal,
        pytest.raises(JournalError, match="episode 0 is already in"),
    ):
        journal.append(record(0))
    path = tmp_path / JOURNAL_NAME
    path.write_text(path.read_text() * 2)
    with pytest.raises(JournalError, match="twice"):
        read_journal(tmp_path)


def test_another_run_is_refused_with_the_difference_and_the_remedy(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    with (
        pytest.raises(JournalError, match="checkpoint: 'aaaa' there, 'bbbb' now") as caught,
        open_journal(tmp_path, {**RUN, "checkpoint": "bbbb"}, {}),
    ):
        pytest.fail("the journal opened")
    assert "--out" in str(caught.value)
    assert "--if-changed set-aside" in str(caught.value)


def test_another_run_can_be_set_aside(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fill(folder, 0)
    other = {**RUN, "checkpoint": "bbbb"}
    with open_journal(folder, other, {}, set_aside=True) as journal:
        assert journal.records == []
    assert [r.index for r in read_journal(tmp_path / "run.1")] == [0]
    assert json.loads((folder / RUN_NAME).read_text())["definition"] == other


def test_a_run_that_ended_before_its_first_episode_gives_way(tmp_path: Path) -> None:
    fill(tmp_path)
    other = {**RUN, "checkpoint": "bbbb"}
    with open_journal(tmp_path, other, {}) as journal:
        journal.append(record(0))
    with open_journal(tmp_path, other, {}) as journal:
        assert [r.index for r in journal.records] == [0]


def test_provenance_may_differ(tmp_path: Path) -> None:
    with open_journal(tmp_path, RUN, {"host": "a"}):
        pass
    with open_journal(tmp_path, RUN, {"host": "b"}) as journal:
        assert journal.records == []


def test_journal_without_its_definition_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    (tmp_path / RUN_NAME).unlink()
    with (
        pytest.raises(JournalError, match=r"without the run\.json"),
        open_journal(tmp_path, RUN, {}),
    ):
        pytest.fail("the journal opened")


def test_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from twin_eval.journal import open_journal\n"
        f"with open_journal(Path({str(tmp_path)!r}), {RUN!r}, {{}}):\n"
        "    print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with (
            pytest.raises(FolderInUseError, match=f"process {holder.pid} on"),
            open_journal(tmp_path, RUN, {}),
        ):
            pytest.fail("the journal opened")
        holder.kill()
    with open_journal(tmp_path, RUN, {}) as journal:
        assert journal.records == []
