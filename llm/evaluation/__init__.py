"""How well a trained model predicts a text, token by token."""

from llm.evaluation.perplexity import Evaluation, evaluate_text, losses, sliding_windows

__all__ = ["Evaluation", "evaluate_text", "losses", "sliding_windows"]
