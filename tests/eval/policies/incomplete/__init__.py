from .deploy_policy import get_model  # noqa: F401
