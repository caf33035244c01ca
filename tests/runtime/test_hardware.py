import pytest
import torch

from llm.config import GPTConfig
from llm.model import GPT
from llm.runtime.hardware import flops_per_token, has_native_bfloat16, peak_flops


def test_operations_of_a_token_are_those_of_its_matrix_products(tiny):
    matrices = 12 * tiny.n_embd**2 * tiny.n_layer + tiny.vocab_size * tiny.n_embd
    attention = 12 * tiny.n_layer * tiny.n_embd * tiny.context_length
    found = flops_per_token(tiny, GPT(tiny).n_parameters)
    assert found == pytest.approx(6 * matrices + attention, rel=0.2)  # biases and gains are counted with N
    assert found > 6 * matrices + attention


def test_a_head_of_its_own_does_not_change_the_operations():
    tied, untied = (GPTConfig(17, 8, n_embd=8, tie_head=tie) for tie in (True, False))
    assert flops_per_token(tied, GPT(tied).n_parameters) == flops_per_token(untied, GPT(untied).n_parameters)


def test_operations_of_gpt2_124m_by_hand():
    """12 layers of 12 heads of 64; its 1024 x 768 positions are looked up, all else is multiplied with."""
    config = GPTConfig.gpt2("124m")
    n_parameters = 50257 * 768 + 1024 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    expected = 6 * (n_parameters - 1024 * 768) + 12 * 12 * 12 * 64 * 1024
    assert n_parameters == 124_439_808
    assert flops_per_token(config, n_parameters) == expected == 855_166_464


def test_rotary_positions_have_no_table_to_leave_out():
    learned, rotary = (GPTConfig(17, 8, n_embd=8, n_head=2, positions=kind) for kind in ("learned", "rotary"))
    assert flops_per_token(learned, GPT(learned).n_parameters) == flops_per_token(rotary, GPT(rotary).n_parameters)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A40", 150e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("Tesla T4", 65e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("Foo", None),
    ],
)
def test_the_peak_is_looked_up_by_name(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), "bf16-mixed") == peak
    assert peak_flops(torch.device("cuda"), "32-true") is None
    assert peak_flops(torch.device("cpu"), "bf16-mixed") is None


def test_native_bfloat16_is_what_the_processor_says(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: False)
    assert not has_native_bfloat16()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert has_native_bfloat16()
    assert has_native_bfloat16("cpu")
    assert not has_native_bfloat16("mps")
