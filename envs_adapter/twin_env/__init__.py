"""Simulators behind RoboTwin's task interface, episode files, demonstrations."""

from twin_env.backends import environment_fingerprint, list_tasks, make_env
from twin_env.canary import RendererCheck, check_renderer
from twin_env.config import load_env_config
from twin_env.gym_registration import register_robotwin, register_when_imported
from twin_env.task_env import (
    DetailedTaskEnv,
    InvalidActionError,
    Observation,
    TaskEnv,
    UnstableError,
)

__all__ = [
    "DetailedTaskEnv",
    "InvalidActionError",
    "Observation",
    "RendererCheck",
    "TaskEnv",
    "UnstableError",
    "check_renderer",
    "environment_fingerprint",
    "list_tasks",
    "load_env_config",
    "make_env",
    "register_robotwin",
]

register_when_imported()
