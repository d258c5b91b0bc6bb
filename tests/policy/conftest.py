"""Fixtures of the policy tests."""

from __future__ import annotations

import pytest
import torch
from policy_fixtures import make_config, make_policy

from twin_policy.config import PolicyConfig
from twin_policy.diffusion import DiffusionPolicy


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny_config() -> PolicyConfig:
    return make_config()


@pytest.fixture
def tiny_policy(tiny_config: PolicyConfig) -> DiffusionPolicy:
    return make_policy(tiny_config)
