"""Subcommands of `twinbench` that belong to the environments."""
