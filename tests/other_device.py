"""The package on a device that is neither the CPU nor there: tensors have a shape and a device, and no values.

A tensor that is made on the CPU by mistake meets one of the device, which raises; so does what waits for a value of it
(`.item()`, `.tolist()`). A process of its own, since it changes what torch takes for the accelerator of the machine.
"""

from __future__ import annotations

import sys

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from llm.config import GPTConfig, SamplingConfig
from llm.generation.sampling import distribution, penalize
from llm.inspection import capture, logit_lens
from llm.model import GPT, KeyValueCache, decode, prefill
from llm.training.loss import head_loss
from llm.training.metrics import SplitMetrics

DEVICE = torch.device("privateuseone", 0)
B, T, V = 2, 32, 5000


def on_device(model: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Put what a model on no device holds on the other one; what is shared stays shared."""
    moved: dict[int, torch.Tensor] = {}
    with _disable_current_modes():
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        fake = moved.get(id(tensor), FakeTensor(mode, tensor.detach(), DEVICE))
                        is_parameter = isinstance(tensor, torch.nn.Parameter) and not isinstance(
                            fake, torch.nn.Parameter
                        )
                        moved[id(tensor)] = torch.nn.Parameter(fake) if is_parameter else fake
                        tensors[name] = moved[id(tensor)]  # type: ignore[assignment]


def check(config: GPTConfig) -> None:
    """Train, measure, look inside and generate."""
    mode = FakeTensorMode()
    with torch.device("meta"):
        model = GPT(config)
    on_device(model, mode)
    metrics = SplitMetrics()
    with mode:
        ids = torch.zeros(B, T, dtype=torch.int64, device=DEVICE)
        prediction = head_loss(model.head, model.hidden_states(ids), ids, with_accuracy=True)
        assert prediction.loss.device == DEVICE
        with torch.no_grad():
            model.eval()
            metrics.sums = torch.zeros(3, device=DEVICE)
            metrics.update(prediction)
            found = capture(model, ids, ids)
            assert {stage.tensor.device for stage in found.values()} == {DEVICE}
            logit_lens(model, found)
            if config.is_causal:
                cache = KeyValueCache(model, B, T)
                lengths = torch.full((B,), 5, device=DEVICE)
                logits = prefill(model, cache, ids[:, :8], lengths)
                logits = decode(model, cache, ids[:, :1], lengths[:, None])[:, 0]
                seen = torch.zeros(B, V, dtype=torch.bool, device=DEVICE)
                for sampling in (SamplingConfig(), SamplingConfig(top_k=None, top_p=0.5), SamplingConfig(min_p=0.1)):
                    distribution(penalize(logits, seen, 1.2), sampling)


def main() -> None:
    """Check every attention, and a model with all that GPT-2 has not."""
    _setup_privateuseone_for_python_backend()
    torch.privateuseone.get_amp_supported_dtype = lambda: [torch.bfloat16]  # type: ignore[attr-defined]
    modern = {
        "positions": "rotary",
        "qk_norm": True,
        "norm": "rms_norm",
        "activation": "squared_relu",
        "vocab_multiple": 64,
    }
    for settings in ({}, modern, *({"attention": kind} for kind in ("dot", "self", "causal"))):
        check(GPTConfig(V, T, n_layer=2, n_head=2, n_embd=16, **settings))  # type: ignore[arg-type]
    print("all on the device")


if __name__ == "__main__":
    sys.exit(main())
