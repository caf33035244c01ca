"""The shape table says what the live tensors are."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from test_probe import configs

from llm.config import GPTConfig
from llm.inspection import capture, markdown_table, shape_rows, text_table, trace_shapes
from llm.model import GPT

STAGES = ("Q", "K", "V", "scores", "weights", "context", "attention out", "residual")


@given(config=configs, batch_size=st.integers(1, 3), data=st.data())
def test_the_trace_equals_the_live_tensors(config, batch_size, data):
    length = data.draw(st.integers(1, config.context_length))
    model = GPT(config).eval()
    ids = torch.randint(config.vocab_size, (batch_size, length))
    rows = {row.stage: row for row in trace_shapes(config, batch_size, length)}
    live = {}

    def watch(module, name):
        module.register_forward_hook(lambda _module, _args, output: live.update({name: output}))

    # hooks of our own, so that the probe is not compared with itself
    watch(model.embeddings.token, "token embeddings")
    watch(model.embeddings, "input embeddings")
    if config.norm == "none":
        assert not any("norm" in stage for stage in rows), "there is none"
    else:
        watch(model.final_norm, "final norm")
    watch(model, "logits")
    for layer, block in enumerate(model.blocks):
        watch(block, f"block {layer} / residual")
        watch(block.attention, f"block {layer} / attention out")
        if block.mlp is not None:
            watch(block.mlp, f"block {layer} / MLP")
    model(ids)
    for name, tensor in live.items():
        row = rows[name]
        assert (row.shape, row.dtype, row.bytes) == (tuple(tensor.shape), "float32", tensor.nbytes), name
    letters = {
        "B": batch_size,
        "T": length,
        "C": config.n_embd,
        "H": config.heads,
        "D": config.head_dim,
        "V": config.vocab_size,
    }
    for row in rows.values():
        symbols = [symbol for symbol in row.axes.strip("()").split(", ") if symbol]
        assert row.shape == tuple(letters[symbol] for symbol in symbols), row
    assert [*rows.values()] == shape_rows(capture(model, ids, ids))
    assert sum(row.parameters for row in rows.values()) == model.n_parameters


def test_every_stage_is_there_by_name(tiny):
    names = [row.stage for row in trace_shapes(tiny, 2)]
    assert names[:4] == ["token ids", "token embeddings", "positional embeddings", "input embeddings"]
    assert names[-3:] == ["final norm", "logits", "loss"]
    for layer in range(tiny.n_layer):
        assert {f"block {layer} / {stage}" for stage in (*STAGES, "MLP")} <= set(names)


def test_like_blocks_are_shown_once():
    rows = trace_shapes(GPTConfig(vocab_size=9, context_length=4, n_layer=3, n_head=2, n_embd=4), 2)
    text, markdown = text_table(rows), markdown_table(rows)
    assert "block 0-2 / weights" in text
    assert "2x2x4x4" in text
    assert len(markdown.splitlines()) == 1 + len(text.splitlines()) < len(rows)
    assert len({line.count("|") for line in markdown.splitlines()}) == 1


def test_the_dtypes_are_those_of_training():
    config = GPTConfig(vocab_size=9, context_length=4, n_layer=1, n_head=2, n_embd=4)
    mixed = {row.stage.rpartition(" / ")[2]: row for row in trace_shapes(config, 2, precision="bf16-mixed")}
    assert {mixed[stage].dtype for stage in ("Q", "K", "V", "context", "MLP", "logits")} == {"bfloat16"}
    assert {mixed[stage].dtype for stage in ("scores", "weights", "residual", "token embeddings")} == {"float32"}
    assert mixed["Q"].bytes == 2 * 2 * 4 * 2 * 2
    assert {row.dtype for row in trace_shapes(config, 2, precision="bf16-true") if row.parameters} == {"bfloat16"}
