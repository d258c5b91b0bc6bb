"""Sweeps: one YAML in, one ablation table out."""
