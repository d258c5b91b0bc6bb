"""RoboTwin's entry to the diffusion policy."""

from .deploy_policy import eval, get_model, reset_model

__all__ = ["eval", "get_model", "reset_model"]
