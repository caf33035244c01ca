"""Files of llama2.c: written here as its `export.py` does, read, and compared with what they were made from."""

import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llm import SamplingConfig, generate_batch
from llm.errors import CheckpointError
from llm.pretrained import load, read_pretrained
from llm.pretrained.definitions import scored_pieces
from llm.pretrained.tokenizer_files import from_definition

transformers = pytest.importorskip("transformers")

REAL = Path(__file__).parents[2] / "data" / "stories260K"
PIECES = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
PIECES += [" a", "ab", " ab", "ba", "bab", "é", " ", "a", "b", "c"]
SCORES = [0.0] * 259 + [-float(rank) for rank in range(10)]


def tiny_llama(**settings):
    torch.manual_seed(0)
    sizes = {"vocab_size": len(PIECES), "hidden_size": 24, "intermediate_size": 20, "max_position_embeddings": 32}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(sizes | heads | settings))).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def to_neighbours(rows, n_head):
    """The inverse of what Hugging Face's converter did: `permute_reverse` of llama2.c."""
    return rows.view(n_head, 2, len(rows) // n_head // 2, -1).transpose(1, 2).reshape(rows.shape)


def write(model, path):
    config, weights = model.config, model.state_dict()
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    sizes = [config.hidden_size, config.intermediate_size, config.num_hidden_layers, *heads.values()]
    vocab_size = config.vocab_size if config.tie_word_embeddings else -config.vocab_size
    with path.open("wb") as file:
        file.write(struct.pack("<7i", *sizes, vocab_size, config.max_position_embeddings))

        def put(name):
            for layer in range(config.num_hidden_layers):
                rows = weights[f"model.layers.{layer}.{name}.weight"]
                file.write((to_neighbours(rows, heads[name]) if name in heads else rows).numpy().tobytes())

        file.write(weights["model.embed_tokens.weight"].numpy().tobytes())
        for name in ("input_layernorm", *(f"self_attn.{letter}_proj" for letter in "qkvo")):
            put(name)
        for name in ("post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"):
            put(name)
        file.write(weights["model.norm.weight"].numpy().tobytes())
        size = config.hidden_size // config.num_attention_heads
        file.write(bytes(4 * config.max_position_embeddings * size))  # both rotary tables
        if vocab_size < 0:
            file.write(weights["lm_head.weight"].numpy().tobytes())
    return path


def write_tokenizer(path):
    tokens = [piece.encode() for piece in PIECES]
    entries = [struct.pack("<fi", score, len(token)) + token for score, token in zip(SCORES, tokens, strict=True)]
    path.write_bytes(struct.pack("<i", max(map(len, tokens))) + b"".join(entries))


@pytest.mark.parametrize(
    "settings",
    [{"tie_word_embeddings": True}, {"tie_word_embeddings": False}, {"num_key_value_heads": 4}],
    ids=["tied", "a head of its own", "as many keys as queries"],
)
def test_logits_and_greedy_text_are_those_of_the_model_it_was_made_from(tmp_path, settings):
    theirs = tiny_llama(**settings)
    write_tokenizer(tmp_path / f"tok{len(PIECES)}.bin")
    model, tokenizer = load(write(theirs, tmp_path / "stories.bin"))
    ids = torch.tensor([tokenizer.encode_prompt("a bab ab c")])
    with torch.no_grad():
        assert (model(ids) - theirs(ids).logits).abs().max() < 1e-5
        expected = theirs.generate(ids, do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0)
    ours = generate_batch(model, list(ids), SamplingConfig(12, temperature=0.0, compile="never"))
    assert ours[0][0] == expected[0, ids.shape[1] :].tolist()


def reference(text):
    """The ids that `encode` of llama2.c gives: of all neighbours the pair of the best score, again and again."""
    ids = {piece: token_id for token_id, piece in enumerate(PIECES)}
    tokens = []
    for character in " " + text if text else "":
        known = ids.get(character)
        tokens += [3 + byte for byte in character.encode()] if known is None else [known]
    while True:
        pairs = [
            (SCORES[ids[joined]], -at, ids[joined])
            for at in range(len(tokens) - 1)
            if (joined := PIECES[tokens[at]] + PIECES[tokens[at + 1]]) in ids
        ]
        if not pairs:
            return tokens
        _, at, joined = max(pairs)
        tokens[-at : 2 - at] = [joined]


@given(text=st.text(st.sampled_from("ab cé\n你"), max_size=20))
def test_the_tokenizer_joins_the_pair_of_the_best_score_first(text):
    pieces = [piece.strip("\n").replace(" ", "▁") for piece in PIECES]
    tokenizer = from_definition(scored_pieces(pieces, SCORES, "<unk>"))
    assert tokenizer.encode(text) == reference(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_text_begins_with_its_token_once_and_ends_before_the_next(tmp_path):
    write_tokenizer(tmp_path / "tokenizer.bin")
    found = read_pretrained(write(tiny_llama(), tmp_path / "stories.bin"))
    assert found.format == "llama2.c"
    assert found.tokenizer.encode_prompt("ab") == [1, *reference("ab")]
    assert found.tokenizer.end_ids == (1,)
    assert found.tokenizer.document_start(is_first=False) == [1]


def test_what_is_wrong_is_said(tmp_path):
    path = write(tiny_llama(), tmp_path / "stories.bin")
    assert read_pretrained(path).notes == ("there is no tokenizer: imported without one",)
    (tmp_path / "tok269.bin").write_bytes(bytes(30))
    (note,) = read_pretrained(path).notes
    assert "is no tokenizer of llama2.c with 269 tokens: it has 3" in note
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"is cut off: .* has 78,268 bytes, this one 78,263"):
        read_pretrained(path)


@pytest.mark.skipif(not REAL.is_dir(), reason="data/stories260K holds llama2.c's model where somebody has put it")
def test_a_real_model_writes_its_story():
    model, tokenizer = load(REAL / "stories260K.bin")
    prompt = torch.tensor(tokenizer.start_ids)
    ((ids,),) = generate_batch(model, [prompt], SamplingConfig(40, temperature=0.0, compile="never"))
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    assert tokenizer.decode(ids).startswith(story)
