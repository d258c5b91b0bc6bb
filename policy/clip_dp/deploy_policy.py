"""Diffusion policy on CLIP's features: all that matters is in the checkpoint folder."""

from twin_policy.deploy import eval, get_model, reset_model

__all__ = ["eval", "get_model", "reset_model"]
