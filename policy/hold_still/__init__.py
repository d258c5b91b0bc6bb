"""RoboTwin imports this folder by its name and calls these three functions."""

from .deploy_policy import eval, get_model, reset_model

__all__ = ["eval", "get_model", "reset_model"]
