"""Subcommands of `twinbench` that belong to the harness."""
