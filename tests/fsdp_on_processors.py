"""`train.py` with one more strategy, `fsdp_on_processors`: Lightning's FSDP, whose shards are real, without a GPU.

Torch's FSDP wants a GPU unless it is told a device, and moves what a checkpoint gathers to the processor's memory, from
where it then frees it.
"""

import sys
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, StrategyRegistry, fsdp
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    StateDictType,
)

from llm.cli.starting import main


class OnProcessors(FSDPStrategy):
    """FSDP that Lightning does not know to want a GPU."""


_init = FullyShardedDataParallel.__init__


def _init_here(self: FullyShardedDataParallel, *args: Any, device_id: Any = None, **settings: Any) -> None:
    del device_id
    _init(self, *args, device_id=torch.device("cpu"), **settings)


def _gathered(module: torch.nn.Module, world_size: int, rank0_only: bool = True) -> Any:
    del world_size
    where = {"offload_to_cpu": False, "rank0_only": rank0_only}
    weights, optimizer = FullStateDictConfig(**where), FullOptimStateDictConfig(**where)
    return FullyShardedDataParallel.state_dict_type(module, StateDictType.FULL_STATE_DICT, weights, optimizer)


if __name__ == "__main__":
    FullyShardedDataParallel.__init__ = _init_here  # type: ignore[method-assign]
    fsdp._get_full_state_dict_context = _gathered  # type: ignore[attr-defined]
    StrategyRegistry.register("fsdp_on_processors", OnProcessors)
    sys.exit(main())
