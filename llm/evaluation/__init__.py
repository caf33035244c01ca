"""How well a trained model does: on a text, token by token."""

from llm.evaluation.perplexity import Evaluation, evaluate_text, losses, sliding_windows

__all__ = ["Evaluation", "evaluate_text", "losses", "sliding_windows"]
