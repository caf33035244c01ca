"""Loading maps the weights into memory and copies as little of them as can be."""

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


def write(config, folder):
    """A random model in bfloat16."""
    with torch.device("meta"):
        shapes = GPT(config).state_dict()
    weights = {name: torch.empty(shape.shape, dtype=torch.bfloat16).normal_() for name, shape in shapes.items()}
    if config.tie_head:
        weights["head.weight"] = weights["embeddings.token.weight"]
    export(Pretrained("llm", config, weights), folder)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux says how much memory is resident")
def test_a_large_model_takes_little_more_memory_than_its_file(tmp_path):
    settings = yaml.safe_load((REPOSITORY / "configs" / "llama" / "smollm2-135m.yaml").read_text())["model"]["gpt"]
    config = GPTConfig(vocab_size=50257, context_length=2048, **settings)
    write(config, tmp_path / "large")
    write(replace(config, n_layer=1, n_embd=18), tmp_path / "small")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    resident, dtype, is_touched = json.loads(done.stdout)
    size = (tmp_path / "large" / "model.safetensors").stat().st_size
    assert size > 200e6
    assert dtype == "torch.bfloat16"
    assert is_touched
    assert size * 0.9 < resident < size * 1.2
