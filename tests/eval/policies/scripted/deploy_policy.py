"""A policy that solves every scene but those whose seed is a multiple of 3, and misbehaves on call.

`mode` says how it misbehaves on the seeds `on_seeds`; `marker` is a file that makes it happen once.
"""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np


def get_model(usr_args):
    if usr_args["mode"] == "needs_checkpoint":
        raise FileNotFoundError("no checkpoint: make one with `twinbench train reach_number`")
    if usr_args["mode"] == "broken":
        raise KeyError("weights")
    return usr_args


def eval(TASK_ENV, model, observation):
    time.sleep(model["delay_s"])
    action = np.zeros(14)
    if TASK_ENV.seed % 3:
        action[0] = observation["target"]
    if model["mode"] == "draw" and random.random() + np.random.random() < 1.6:  # noqa: NPY002
        action[0] = 9.0
    if TASK_ENV.seed in model["on_seeds"]:
        mode = model["mode"]
        if mode == "die" and not (model["marker"] and Path(model["marker"]).exists()):
            if model["marker"]:
                Path(model["marker"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "nan":
            action[3] = np.nan
        if mode == "shape":
            action = np.zeros(16)
        if mode == "raise":
            raise ZeroDivisionError("a bug of the policy")
        if mode == "idle":
            return
    TASK_ENV.take_action(action)


def reset_model(model):
    pass
