"""What a card says of a checkpoint that was learnt by LAPO, where that differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Rows = list[tuple[str, str]]


def opening(provenance: Mapping[str, Any], *, steps: int) -> str:
    """What it is."""
    lapo, train = provenance["lapo"], provenance["train_config"]
    kind = {
        "lapo": "A policy of latent-variable advantage-weighted policy optimisation (LAPO)",
        "bc": "A behaviour-cloning action VAE (LAPO with advantage weights off)",
    }[lapo["behaviour"]]
    acting = {
        "policy": "the actor's latent actions",
        "prior": "latent actions drawn from the VAE's prior",
        "prior_mean": "the mean of the VAE's prior",
    }[lapo["act_with"]]
    return (
        f"{kind}, {steps} iterations of {provenance['effective_batch_size']} chunks (seed "
        f"{train['seed']}, learning rate {train['lr']:g}). It acts by {acting}."
    )


def episodes(provenance: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Source, successes, failures."""
    return [
        (source, counts["successes"], counts["failures"])
        for source, counts in provenance["replay"]["sources"].items()
    ]


def figures(provenance: Mapping[str, Any], val: Mapping[str, float]) -> Rows:
    """Of the networks as they are, on episodes kept for validation where there are some."""
    lapo = provenance["lapo"]
    rows = [
        ("active latent units", f"{val['active_units']:.0f} of {lapo['latent_dim']}"),
        ("V minus Monte-Carlo return, mean", f"{val['v_bias']:+.3f}"),
        ("Q minus Monte-Carlo return, mean", f"{val['q_bias']:+.3f}"),
        ("correlation of V and return", f"{val['v_correlation']:.2f}"),
    ]
    for end in ("success", "failure"):
        if f"v_{end}" in val:
            rows.append((f"V, mean over episodes that end in {end}", f"{val[f'v_{end}']:.3f}"))
    if "mean_abs" in val:
        rows += [
            ("distance from successes' actions, mean", f"{val['mean_abs']:.4f} rad"),
            ("the same, of the prior's mean", f"{val['prior_mean_abs']:.4f} rad"),
            ("distance from successes' actions, worst joint", f"{val['max_dim_abs']:.4f} rad"),
        ]
    return rows


def sizes(parameters: Mapping[str, int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Head and row."""
    names = ("encoder", "critic", "vae", "actor", "targets", "all", "learning")
    return names, tuple(f"{parameters[name]:,}" for name in names)
