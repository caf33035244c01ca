"""The features that inspection can show."""

from __future__ import annotations

from typing import Literal, get_args

Feature = Literal[
    "shapes",
    "maps",
    "scores",
    "head_curves",
    "rollout",
    "lens",
    "attribution",
    "confusion",
    "positions",
    "neighbours",
    "projector",
    "gradients",
    "histograms",
    "film",
    "page",
]
FEATURES: tuple[Feature, ...] = get_args(Feature)
DEFAULT_FEATURES = tuple(feature for feature in FEATURES if feature != "head_curves")
"""All but the curves of single heads, of which there are five times as many as heads."""

SEES_THE_FUTURE = (
    "this attention is not causal: every position sees the very token that it has to predict, so the loss is not "
    "comparable with that of a causal model"
)
OF_A_STEP = {"shapes", "gradients", "histograms", "confusion"}
"""The features of an optimizer step or of a validation, which need no capture."""
