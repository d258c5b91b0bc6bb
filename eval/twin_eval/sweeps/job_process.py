"""The process of a job before it becomes the job: `python -m ... PARENT COMMAND WORD ...`.

It has the kernel interrupt the job when the sweep is gone, even if that was killed: training then
saves its state, an evaluation closes its workers. On Linux only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Becomes the command; it keeps the signal that was asked for."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:  # It was faster than we.
            sys.exit(130)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
