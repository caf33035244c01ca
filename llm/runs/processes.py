"""Several processes that train one model: how many, what started them, and that none outlives the others."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor

from llm.config import LoRAConfig, OptimConfig
from llm.errors import HOW_TO_RESUME, ConfigError
from llm.runtime.process import Interrupted, name_of, usable_cores
from llm.runtime.words import counted

log = logging.getLogger("llm")

_SAY_WHERE = {"MASTER_ADDR", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "LSB_JOBID", "KUBERNETES_PORT", "PMI_RANK"}
"""Variables by which Lightning knows a cluster."""
_SECONDS_TO_END = 30.0
_SECONDS_OF_GRACE = 10.0
_SECONDS_BETWEEN_LOOKS = 0.5


def refuse_more_processes_than_cores(trainer: Any) -> None:
    """Each device of a CPU is a process; more of them than cores would bring the machine to a standstill.

    Args:
        trainer: the settings `accelerator` and `devices`.

    Raises:
        ConfigError: both numbers, and what to do.
    """
    on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.accelerator.is_available())
    asked = str(trainer.devices)
    if not on_cpu or not asked.isdigit():
        return
    cores = usable_cores()
    if int(asked) > cores:
        raise ConfigError(
            f"trainer.devices {asked} on a CPU means {asked} processes, and this machine has {counted(cores, 'core')}: "
            f"use at most {cores}, or 1, which uses all cores"
        )


def refuse_nodes_that_nobody_starts(trainer: Any) -> None:
    """Without a word of where the first machine is, this process would wait half an hour for the others.

    Args:
        trainer: the setting `num_nodes`.

    Raises:
        ConfigError: what to do.
    """
    if int(trainer.num_nodes or 1) > 1 and not _SAY_WHERE & os.environ.keys():
        raise ConfigError(
            f"trainer.num_nodes is {trainer.num_nodes}, and nothing says where the other machines are: start the "
            "command on each with torchrun, which sets num_nodes itself, or under SLURM"
        )


def adopt_launcher(trainer: Any, devices_given: bool, strategy_given: bool) -> None:
    """Take from torchrun how many processes it has started: each would train a model of its own otherwise.

    Args:
        trainer: the settings of the run; changed in place.
        devices_given: whether the user set `devices`, and so knows better.
        strategy_given: the same of `strategy`.
    """
    if not torch.distributed.is_torchelastic_launched():
        return
    world, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if not devices_given:
        trainer.devices = here
        trainer.num_nodes = world // here
    if not strategy_given and world > 1:
        trainer.strategy = "ddp"


def total_norm(gradients: Iterable[Tensor], strategy: Any, device: torch.device) -> Tensor:
    """The norm of all gradients together, of which each process has all, or under FSDP a shard.

    Args:
        gradients: those that this process has.
        strategy: the Trainer's.
        device: where the norm is to be.
    """
    norm = torch.nn.utils.get_total_norm(gradients).to(device)
    if isinstance(strategy, FSDPStrategy):
        return strategy.reduce(norm.square(), reduce_op="sum").sqrt()
    return norm


def refuse_muon_in_pieces(strategy: Any, optim: OptimConfig) -> None:
    """Muon orthogonalizes whole matrices.

    Raises:
        ConfigError: FSDP would give it shards.
    """
    if is_sharded(strategy) and optim.kind == "muon":
        raise ConfigError(
            "model.optim.kind muon needs whole matrices, and strategy fsdp shards them: use adamw, or ddp"
        )


def refuse_adapters_in_pieces(strategy: Any, lora: LoRAConfig) -> None:
    """Checkpoints without the frozen weights are completed as they are read.

    Raises:
        ConfigError: FSDP reads them by itself, and whole.
    """
    if lora.adapter_only and is_sharded(strategy):
        raise ConfigError(
            "strategy fsdp reads whole checkpoints, and model.lora.adapter_only leaves out the frozen weights: let "
            "checkpoints hold all (adapter_only false), or use ddp"
        )


def is_sharded(strategy: Any) -> bool:
    """Whether a strategy, the setting or the Trainer's, gives each process a part of the weights."""
    return isinstance(strategy, FSDPStrategy) or str(strategy).startswith("fsdp")


def without_looks(callbacks: list[L.Callback], strategy: Any, looks: Collection[type[L.Callback]]) -> list[L.Callback]:
    """Under FSDP no process has the whole model between two steps, to look into it or to generate with it.

    Args:
        callbacks: of a run.
        strategy: the setting.
        looks: the kinds that need a whole model; removed under FSDP, with a line that says so.
    """
    if not is_sharded(strategy):
        return callbacks
    log.info("strategy fsdp: no inspection and no samples during training; generate from a checkpoint instead")
    return [callback for callback in callbacks if not isinstance(callback, tuple(looks))]


class EndTogether(L.Callback):
    """Where the Trainer started the other processes of this machine, none of them outlives a run that has failed.

    If one of them ends before its time, so does the run, with a line that says which. The first process waits for
    the others when it ends, and they end when it is gone (`end_with_parent`). What torchrun or SLURM started, those
    look after.
    """

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ending = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin to watch, in place of Lightning, which would end this process without a word."""
        del pl_module, stage
        started = getattr(trainer.strategy.launcher, "procs", [])
        self._processes = list(started)
        started.clear()
        if self._processes:
            atexit.register(self._wait)
            threading.Thread(target=self._watch, daemon=True, name="end-together").start()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """End the others, which would wait for this process; but let them save what is being saved."""
        del trainer, pl_module
        self._ending = True
        if not isinstance(exception, Interrupted):
            self._kill()

    def _watch(self) -> None:
        while any(process.poll() is None for process in self._processes):
            if any(process.returncode for process in self._processes):
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        failed = {number: process for number, process in enumerate(self._processes, 1) if process.returncode}
        if not failed:
            return
        time.sleep(_SECONDS_OF_GRACE)  # as a rule this process notices by itself, or was told to end with the other
        if self._ending:
            return
        number, process = failed.popitem()
        how = name_of(-process.returncode) if process.returncode < 0 else f"status {process.returncode}"
        text = f"error: process {number} (pid {process.pid}) ended with {how}, and with it the run: {HOW_TO_RESUME}"
        print(text, file=sys.stderr, flush=True)
        self._kill()
        os._exit(1)

    def _wait(self) -> None:
        deadline = time.monotonic() + _SECONDS_TO_END
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        self._kill()

    def _kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
