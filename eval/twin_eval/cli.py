"""The command `twinbench`: a table of subcommands, each imported only when it is used."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

VERSION = "0.1.0"


@dataclass(frozen=True)
class Command:
    """One subcommand."""

    name: str
    module: str
    """Import path of a module with `add_arguments(parser)` and `run(args) -> int`."""
    help: str
    """One line for `twinbench --help`."""


COMMANDS = (
    Command("doctor", "twin_eval.commands.doctor", "what this machine has, and what to do"),
    Command("demo", "twin_eval.commands.demo", "collect, train and evaluate in one go"),
    Command("collect", "twin_env.commands.collect", "record demonstrations of the scripted expert"),
    Command("gallery", "twin_env.commands.gallery", "a contact sheet of the tasks"),
    Command("data", "twin_train.commands.data", "inspect recorded episodes, convert them"),
    Command(
        "replay", "twin_train.commands.replay", "replay data for offline reinforcement learning"
    ),
    Command(
        "features",
        "twin_train.commands.features",
        "what a frozen backbone gives of every picture, computed once",
    ),
    Command(
        "teacher",
        "twin_train.commands.teacher",
        "what a point-cloud teacher makes of every frame, computed once",
    ),
    Command(
        "distill",
        "twin_train.commands.distill",
        "distil frozen models to a point-cloud teacher's space",
    ),
    Command("train", "twin_train.commands.train", "train a policy on recorded demonstrations"),
    Command(
        "train-many", "twin_train.commands.train_many", "train the runs of a file in one process"
    ),
    Command("diagnose", "twin_train.commands.diagnose", "what is wrong with a trained policy"),
    Command("predict", "twin_train.commands.predict", "predicted against recorded actions"),
    Command(
        "convert-robotwin-dp",
        "twin_train.commands.convert_robotwin_dp",
        "turn a .ckpt file of RoboTwin's DP into a checkpoint folder",
    ),
    Command(
        "plan", "twin_eval.commands.plan", "settle which scenes are used, once for all policies"
    ),
    Command("eval", "twin_eval.commands.eval", "evaluate policies closed-loop on unseen seeds"),
    Command(
        "check-policy",
        "twin_eval.commands.check_policy",
        "does a policy folder honour RoboTwin's contract?",
    ),
    Command("watch", "twin_eval.commands.watch", "follow an evaluation that runs elsewhere"),
    Command("report", "twin_eval.commands.report", "tables, figures and a page of finished runs"),
    Command("sweep", "twin_eval.commands.sweep", "train and evaluate a grid of variants"),
    Command("power", "twin_eval.commands.power", "how many episodes a difference needs"),
    Command("install", "twin_eval.commands.install", "put the variants into a RoboTwin checkout"),
    Command("uninstall", "twin_eval.commands.uninstall", "take them out of it again"),
)


def overview() -> str:
    """The text of `twinbench --help`."""
    width = max(len(command.name) for command in COMMANDS)
    lines = [f"  {command.name:<{width}}  {command.help}" for command in COMMANDS]
    return "\n".join(
        [
            "usage: twinbench COMMAND [options]",
            "",
            "Train visuomotor policies and evaluate them honestly, on RoboTwin's task interface.",
            "",
            "commands:",
            *lines,
            "",
            "`twinbench COMMAND --help` lists the options of one command.",
        ]
    )


def find_command(name: str) -> Command:
    """The command called `name`.

    Raises:
        ValueError: if there is none; the message names the nearest one.
    """
    by_name = {command.name: command for command in COMMANDS}
    if name not in by_name:
        from twin_env.names import unknown

        raise unknown("command", name, by_name)
    return by_name[name]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 2 for a wrong call, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help", "help"}:
        print(overview())  # noqa: T201 - the command line's own output
        return 0 if words else 2
    if words[0] in {"-V", "--version"}:
        print(f"twinbench {VERSION}")  # noqa: T201 - the command line's own output
        return 0
    debug = "--debug" in words
    try:
        command = find_command(words[0])
        module = importlib.import_module(command.module)
        parser = argparse.ArgumentParser(
            prog=f"twinbench {command.name}", description=module.__doc__
        )
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(parser)
        return int(module.run(parser.parse_args(words[1:])))
    except (ValueError, FileNotFoundError) as error:
        if debug:
            raise
        return complain(f"error: {error}", 2)
    except KeyboardInterrupt:
        return complain("\ninterrupted; run the same command again to resume", 130)


def complain(message: str, status: int) -> int:
    """Prints `message` to stderr and returns `status`."""
    print(message, file=sys.stderr)  # noqa: T201 - the command line's own output
    return status


if __name__ == "__main__":
    sys.exit(main())
