"""x"""
import lightning as L
class Answers(L.Callback):
    """x."""
