"""The optimizer, and its learning rate over a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm.config.checks import checks


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its learning rate over a run, which changes with every optimizer step.

    Args:
        kind: `adamw` for all parameters (Loshchilov & Hutter 2017); or `muon` for the matrices of the blocks, whose
            every update is made orthogonal (Jordan et al. 2024), and AdamW for embeddings, head and vectors.
        learning_rate: AdamW's peak, reached after the warm-up.
        muon_learning_rate: Muon's peak; how far each matrix moves in a step, measured by its largest singular value.
        muon_momentum: decay of Muon's running mean of the gradients.
        schedule: after the warm-up, `cosine` decays along half a cosine; `warmup_stable_decay` stays at the peak,
            then decays linearly (Hu et al. 2024). Both learning rates follow it.
        decay_fraction: of `warmup_stable_decay`: the fraction of the run that the decay takes, from 0 to 1.
        final_learning_rate_ratio: the last learning rate divided by the peak.
        warmup_steps: optimizer steps from zero to the peak.
        weight_decay: applied to matrices and embeddings, not to biases and norms.
        beta1: decay of AdamW's running mean of the gradients.
        beta2: decay of its running mean of their squares.
        epsilon: added to AdamW's denominator.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    muon_learning_rate: float = 0.02
    muon_momentum: float = 0.95
    schedule: Literal["cosine", "warmup_stable_decay"] = "cosine"
    decay_fraction: float = 0.4
    final_learning_rate_ratio: float = 0.1
    warmup_steps: int = 50
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        with checks(self) as check:
            check(self.learning_rate > 0, f"learning_rate must be above 0, got {self.learning_rate}")
            check(self.muon_learning_rate > 0, f"muon_learning_rate must be above 0, got {self.muon_learning_rate}")
            check(0 <= self.muon_momentum < 1, f"muon_momentum must be in [0, 1), got {self.muon_momentum}")
            check(
                0 <= self.decay_fraction <= 1,
                f"decay_fraction must be from 0 to 1, got {self.decay_fraction}",
            )
            check(
                0 <= self.final_learning_rate_ratio <= 1,
                f"final_learning_rate_ratio must be from 0 to 1, got {self.final_learning_rate_ratio}",
            )
            check(self.warmup_steps >= 0, f"warmup_steps must be at least 0, got {self.warmup_steps}")
            check(self.weight_decay >= 0, f"weight_decay must be at least 0, got {self.weight_decay}")
            check(0 <= self.beta1 < 1, f"beta1 must be in [0, 1), got {self.beta1}")
            check(0 <= self.beta2 < 1, f"beta2 must be in [0, 1), got {self.beta2}")
            check(self.epsilon > 0, f"epsilon must be above 0, got {self.epsilon}")
