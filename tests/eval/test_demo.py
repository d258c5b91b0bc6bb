"""`twinbench demo`: its parts, their order, resuming, and the closing table."""

import argparse
import csv
import json
from pathlib import Path

import pytest
from record_fixtures import make_record

from twin_eval import cli
from twin_eval.commands import demo
from twin_eval.journal import open_journal
from twin_eval.records import Outcome


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(words)


def play_part(folder: Path, part: demo.Part) -> None:
    """Instead of the sub-command: fills the journal of an evaluation."""
    if not part.name.startswith("eval "):
        return
    policy = part.name.removeprefix("eval ")
    outcome: Outcome = "failure" if policy == "hold_still" else "success"
    with open_journal(
        folder / "eval" / policy, {"policy": policy}, {"session": "s"}, planned=3
    ) as journal:
        for index in range(4):
            if not journal.has(index):
                values = {**vars(make_record(index, outcome)), "policy": policy}
                journal.append(type(make_record())(**values))


def test_parts_come_in_order_and_share_their_folders() -> None:
    parts = demo.plan_parts(arguments("--episodes", "7", "--demonstrations", "5"))
    names = ["collect", "train", "eval dp_resnet", "eval expert_replay", "eval hold_still"]
    assert [part.name for part in parts] == names
    collect, train, trained = parts[0].words, parts[1].words, parts[2].words
    assert collect[:2] == ("collect", "beat_block_hammer")
    assert collect[collect.index("--episodes") + 1] == "5"
    assert train[:3] == ("train", "beat_block_hammer", "dp_resnet_demo")
    assert train[3:] == ("--config", "demo_clean", "--episodes", "5")
    checkpoint = trained[trained.index("--checkpoint") + 1]
    assert checkpoint == "outputs/checkpoints/beat_block_hammer/dp_resnet_demo"
    assert trained[trained.index("--episodes") + 1] == "7"


def test_paths_of_configs_give_folders_by_their_names() -> None:
    words = ("--config", "my/cluttered.yml", "--policy-config", "my/small.yml")
    _, train, trained, *_ = (part.words for part in demo.plan_parts(arguments(*words)))
    assert train[train.index("--config") + 1] == "my/cluttered.yml"
    checkpoint = trained[trained.index("--checkpoint") + 1]
    assert checkpoint == "outputs/checkpoints/beat_block_hammer-cluttered/small"
    assert train[train.index("--out") + 1] == checkpoint


@pytest.mark.parametrize("number", range(5))
def test_words_of_a_part_are_words_that_its_command_knows(number: int) -> None:
    words = demo.plan_parts(arguments())[number].words
    module = __import__(cli.find_command(words[0]).module, fromlist=["add_arguments"])
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    assert parser.parse_args(words[1:]).task == "beat_block_hammer"


def test_demo_ends_with_table_figure_and_timings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run_part", lambda part: play_part(tmp_path, part))
    assert demo.run(arguments("--out", str(tmp_path), "--episodes", "3")) == 0
    with (tmp_path / "summary.csv").open(newline="") as stream:
        rows = {row["policy"]: row for row in csv.DictReader(stream)}
    rates = {policy: row["rate"] for policy, row in rows.items()}
    assert rates == {"dp_resnet": "1.0", "expert_replay": "1.0", "hold_still": "0.0"}
    assert {row["n"] for row in rows.values()} == {"3"}
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out + "\n"
    assert (tmp_path / "figures/success.png").exists()
    assert list(json.loads((tmp_path / "timings.json").read_text())) == [
        part.name for part in demo.plan_parts(arguments())
    ]


def test_timings_add_up_over_interrupted_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timings.json").write_text('{"collect": 100.0}')

    def interrupt(part: demo.Part) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_part", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo.run(arguments("--out", str(tmp_path)))
    timings = json.loads((tmp_path / "timings.json").read_text())
    assert list(timings) == ["collect"]
    assert timings["collect"] >= 100.0


def test_a_failing_part_ends_the_demo_and_is_named() -> None:
    with pytest.raises(demo.DemoError, match=r"twinbench collekt x` failed \(exit status 2\)"):
        demo.run_part(demo.Part("collect", "", ("collekt", "x")))


def test_damaged_timings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "timings.json"
    path.write_text("{")
    with pytest.raises(demo.DemoError, match="delete it"):
        demo.read_timings(path)
