"""Small sweeps, and sessions of them with the fake `twinbench`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record_fixtures import make_record

from twin_eval.records import record_to_dict
from twin_eval.sweeps import session
from twin_eval.sweeps.plan import Means
from twin_eval.sweeps.running import Failure
from twin_eval.sweeps.spec import Sweep, parse_sweep

HERE = Path(__file__).parent
FAKE = (sys.executable, str(HERE / "fake_twinbench.py"))
SMALL: dict[str, Any] = {
    "policy": "clip_dp_small",
    "tasks": ["beat_block_hammer", "click_bell"],
    "demonstrations": 3,
    "seeds": [0, 1],
    "grid": {"policy.encoder.clip_layer": [0, 1]},
    "evaluate": {"episodes": 2},
}


def make_sweep(**changes: Any) -> Sweep:
    return parse_sweep({**SMALL, **changes}, name="small", source="small.yaml")


def run_session(
    sweep: Sweep,
    *,
    slots: int = 2,
    only: Sequence[str] = (),
    folder: Path = Path("outputs/sweeps/small"),
    **options: Any,
) -> list[Failure]:
    """A session in the current folder."""
    Path("episode.json").write_text(json.dumps(record_to_dict(make_record())))
    with session.held(folder) as hold:
        return session.run_session(
            sweep,
            folder,
            session.choose_runs(sweep, only),
            Means(slots=slots),
            hold=hold,
            command=FAKE,
            **options,
        )


def calls(*kinds: str) -> list[str]:
    """What the fake was called with since the last look."""
    path = Path("calls.txt")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line for line in lines if not kinds or line.startswith(kinds)]
