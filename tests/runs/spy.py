"""A callback that notes which of its hooks are called, in which order, at which step."""

from __future__ import annotations

from typing import Any

import lightning as L

CALLS: list[str] = []
"""Of the last run: hook and step made, such as `on_train_batch_end 3`."""

_HOOKS = [name for name in vars(L.Callback) if name.startswith("on_") or name in ("setup", "teardown")]


class Spy(L.Callback):
    """Notes every call in `CALLS`."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        CALLS.clear()


def _noted(name: str) -> Any:
    own = vars(Spy).get(name)

    def hook(self: Spy, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if own is not None:
            own(self, trainer, *args, **kwargs)
        CALLS.append(f"{name} {trainer.global_step}")

    return hook


for _name in _HOOKS:
    setattr(Spy, _name, _noted(_name))
