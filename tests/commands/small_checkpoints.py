"""Checkpoints of small random networks, and commands that use them."""

import io
import sys

import torch
from torch import nn

from llm.__main__ import main
from llm.model import build_network
from llm.pretrained.checkpoint import ENTRY, WEIGHTS_PREFIX, describe


def write(path, config, task, tokenizer, std=0.3, **more):
    """The path of a checkpoint whose description has `more` in it."""
    torch.manual_seed(0)
    model = build_network(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    state = {f"{WEIGHTS_PREFIX}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({ENTRY: {**describe(model.config, tokenizer, task), **more}, "state_dict": state}, path)
    return str(path)


def runner(command, checkpoint, capsys, monkeypatch):
    """A function that runs a command on a checkpoint; gives exit status, output and errors."""

    def run(*words, stdin=None, ckpt=checkpoint):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = main([command, "--ckpt", ckpt, *words])
        return status, *capsys.readouterr()

    return run
