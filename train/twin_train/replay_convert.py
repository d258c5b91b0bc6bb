"""A flat file of transitions made into a folder of replay data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin_env.episodes_pictures import encode_recorded
from twin_env.replay_files import ReplayAbout, ReplayFrames, ReplayOutcome, write_replay
from twin_train.replay_draft import split_joints
from twin_train.replay_flat import CAMERAS, NEXT, PICTURES, FlatFile, Span, read_flat
from twin_train.replay_output import Made, make

RULE = "as in the file"
TOO_SHORT = "one step that was cut off, of which no transition is left"
DROPPED = "cut off, with no picture after its last step in the file: that transition is left out"
REPEATED = "terminal, with no picture after its last step in the file: the last one is repeated"


@dataclass(frozen=True)
class Piece:
    """What becomes of a span: its transitions, and where its last frame comes from."""

    span: Span
    n: int
    """Transitions."""
    after: str
    """`next` (the file's), `row` (the span's last row) or `repeated`."""

    @property
    def remark(self) -> str:
        return {"next": "", "row": DROPPED, "repeated": REPEATED}[self.after]


def convert_flat(
    path: Path,
    out: Path,
    *,
    task: str,
    arms: tuple[int, int] | None = None,
    names: Mapping[str, str] = {},
    tick: Callable[[], object] = lambda: None,
) -> Made:
    """Cuts the file at terminals and timeouts.

    An episode that ends as terminal and was paid for its last step is a success, any other a
    failure.

    Args:
        arms: joints of the left and of the right arm; by default half of what is not a gripper.
        names: see `read_flat`.

    Raises:
        EpisodeFileError: what the file holds is not what is needed.
        ValueError: arms that do not fit.
        ReplayFolderError: `out` holds something else.
    """
    flat = read_flat(path, names)
    left_arm = _left_arm(flat, arms)
    pieces = [piece for span in flat.spans if (piece := plan(flat, span)) is not None]
    too_short = len(flat.spans) - len(pieces)

    def write(number: int, target: Path) -> list[str]:
        piece = pieces[number]
        write_piece(flat, piece, target, task=task, left_arm=left_arm)
        return [piece.remark] if piece.remark else []

    digest = hashlib.sha256()
    for values in (flat.joint, flat.action, flat.reward):
        digest.update(values.tobytes())
    how = {
        "command": "convert",
        "file": path.name,
        "bytes": path.stat().st_size,
        "numbers": digest.hexdigest()[:16],
        "fields": dict(flat.fields),
        "task": task,
        "left_arm": left_arm,
    }
    source: dict[str, Any] = {
        "kind": "flat file",
        "path": str(path),
        "digest": how["numbers"],
        "episodes": len(pieces),
    }
    made = make(
        out,
        how,
        [f"{piece.span.first}-{piece.span.last}" for piece in pieces],
        write,
        sources=[source],
        left_out={TOO_SHORT: too_short} if too_short else {},
        tick=tick,
    )
    return Made(
        made.folder,
        made.episodes,
        made.written,
        made.left_out,
        {**dict.fromkeys(flat.remarks, 0), **made.remarks},
    )


def plan(flat: FlatFile, span: Span) -> Piece | None:
    """None where no transition is left."""
    if flat.has_next:
        return Piece(span, span.n_rows, "next")
    if span.terminal:
        return Piece(span, span.n_rows, "repeated")
    return Piece(span, span.n_rows - 1, "row") if span.n_rows > 1 else None


def write_piece(flat: FlatFile, piece: Piece, target: Path, *, task: str, left_arm: int) -> None:
    span, n = piece.span, piece.n
    rows = slice(span.first, span.first + n)
    joint = flat.joint[span.first : span.last + 1]
    if piece.after == "next":
        joint = np.concatenate([joint, flat.joints_after(span.last)[None]])
    elif piece.after == "repeated":
        joint = np.concatenate([joint, joint[-1:]])
    pictures = {}
    for word in PICTURES:
        if word in flat.fields:
            jpegs = [encode_recorded(p) for p in flat.pictures(word, span.first, span.last)]
            if piece.after == "next":
                after = next(flat.pictures(f"{NEXT}{word}", span.last, span.last))
                jpegs.append(encode_recorded(after))
            elif piece.after == "repeated":
                jpegs.append(jpegs[-1])
            pictures[CAMERAS[word]] = jpegs
    reward = flat.reward[rows]
    ends: NDArray[np.bool_] = np.zeros(n, bool)
    ends[-1] = True
    nothing = np.zeros(n, bool)
    outcome: ReplayOutcome = "success" if span.terminal and reward[-1] > 0 else "failure"
    write_replay(
        target,
        frames=ReplayFrames(split_joints(joint, left_arm), pictures),
        action=flat.action[rows],
        reward=reward,
        terminal=ends if span.terminal else nothing,
        truncated=nothing if span.terminal else ends,
        about=ReplayAbout(task=task, outcome=outcome, source=flat.path.stem, reward_rule=RULE),
    )


def _left_arm(flat: FlatFile, arms: tuple[int, int] | None) -> int:
    width = flat.joint.shape[1]
    if arms is None and width % 2 == 0 and width >= 4:
        return width // 2 - 1
    if arms is None or sum(arms) + 2 != width:
        told = "" if arms is None else f", and --arms {arms[0]} {arms[1]} makes {sum(arms) + 2}"
        raise ValueError(
            f"{flat.path}: {flat.fields['joint']} has {width} numbers a step: [left arm, gripper, "
            f"right arm, gripper]{told}: give --arms LEFT RIGHT, the joints of each"
        )
    return arms[0]
