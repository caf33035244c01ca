"""BERT: ours against transformers', both ways, with tiny random weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import llm
from llm.__main__ import main
from llm.config import EncoderConfig
from llm.errors import CheckpointError, ConfigError, TokenizerError
from llm.generation import fill_masks
from llm.generation.filling import rank_words
from llm.model import Encoder
from llm.pretrained import Pretrained, adapt, build, export, grow_vocabulary, read_pretrained
from llm.tokenizers import MASK, CharTokenizer

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", ".", "it", "was", "a", "dark"]
WORDS += ["day", "night", "##s", "##ly", "un", "##happy", "dog"]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 20,
}
SHAPES = [
    {},
    {"hidden_act": "gelu_new", "num_hidden_layers": 1, "type_vocab_size": 3},
    {"hidden_act": "relu", "intermediate_size": 96, "num_attention_heads": 1, "layer_norm_eps": 1e-5},
    {"hidden_act": "silu", "hidden_size": 12, "num_hidden_layers": 3, "max_position_embeddings": 33},
    {"tie_word_embeddings": False, "type_vocab_size": 1},
    {"vocab_size": 29},
]
TEXTS = ["The cat sat on the [MASK].", "It was a [MASK] day.", "The unhappy dogs [MASK] on [MASK]"]


@pytest.fixture
def make(tmp_path):
    """Makes a random BERT in a folder, with the vocabulary of its tokenizer, and gives the model and the folder."""

    def make(kind="BertForMaskedLM", name="theirs", tokenizer="vocab.txt", bin_file=False, **settings):
        torch.manual_seed(0)
        model = getattr(transformers, kind)(transformers.BertConfig(**(SIZES | settings))).eval().requires_grad_(False)
        for parameter in model.parameters():  # large enough for every part of the model to matter
            nn.init.normal_(parameter, std=0.3)
        folder = tmp_path / name
        model.save_pretrained(folder)
        if bin_file:
            torch.save(model.state_dict(), folder / "pytorch_model.bin")
            (folder / "model.safetensors").unlink()
        vocabulary = folder / "vocab.txt"
        vocabulary.write_text("\n".join(WORDS) + "\n")
        if tokenizer == "tokenizer.json":
            transformers.BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(folder)
            vocabulary.unlink()
        return model, folder

    return make


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def rows(V, T, n_segments=1):
    torch.manual_seed(1)
    ids, segments = torch.randint(V, (3, T)), torch.randint(max(1, n_segments), (3, T))
    lengths = torch.tensor([T, T // 2, 1])
    return ids, segments, lengths, torch.arange(T) < lengths[:, None]


@pytest.mark.parametrize("bin_file", [False, True])
@pytest.mark.parametrize("settings", SHAPES)
def test_logits_are_those_of_transformers_and_so_are_the_weights_that_go_back(make, tmp_path, settings, bin_file):
    theirs, folder = make(bin_file=bin_file, **settings)
    found = read_pretrained(folder, tasks=["masked"])
    ours = build(found).eval()
    config = found.config
    assert isinstance(ours, Encoder)
    V = config.vocab_size
    ids, segments, lengths, real = rows(V, config.context_length, config.n_segments)
    expected = theirs(ids, real.long(), segments).logits[..., :V]
    torch.testing.assert_close(ours(ids, lengths, segments)[real], expected[real], atol=1e-4, rtol=0)

    export(found, tmp_path / "ours")
    again = transformers.BertForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(ids, real.long(), segments).logits[real], expected[real], atol=1e-4, rtol=0)
    body = transformers.BertModel.from_pretrained(tmp_path / "ours").eval()
    states = ours.hidden_states(ids, lengths, segments)
    torch.testing.assert_close(body(ids, real.long(), segments)[0][real], states[real], atol=1e-4, rtol=0)
    back = read_pretrained(tmp_path / "ours", tasks=["masked"])
    assert back.config == EncoderConfig(**{**config.to_dict(), "vocab_multiple": 1})
    for name, tensor in back.weights.items():
        assert torch.equal(found.weights[name][: len(tensor)], tensor), name


@pytest.mark.parametrize("kind", ["BertModel", "BertForPreTraining"])
def test_what_has_another_head(make, kind):
    theirs, folder = make(kind, type_vocab_size=2)
    found = read_pretrained(folder, any_task=True)
    ours = build(found).eval()
    ids, segments, lengths, real = rows(len(WORDS), 20, 2)
    body = theirs if kind == "BertModel" else theirs.bert
    expected = body(ids, real.long(), segments)[0]
    torch.testing.assert_close(ours.hidden_states(ids, lengths, segments)[real], expected[real], atol=1e-4, rtol=0)
    assert ("its pooler and its head for the next sentence" in found.notes[0]) is True
    assert any("there is no head for masked words" in note for note in found.notes) == (kind == "BertModel")
    if kind == "BertForPreTraining":
        expected = theirs(ids, real.long(), segments).prediction_logits
        torch.testing.assert_close(ours(ids, lengths, segments)[real], expected[real], atol=1e-4, rtol=0)
    else:
        again = build(read_pretrained(folder, any_task=True)).eval()
        assert torch.equal(again(ids), ours(ids)), "always the same"


def test_the_first_names_of_norms_are_read(make):
    theirs, folder = make()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    ids = rows(len(WORDS), 20)[0]
    torch.testing.assert_close(llm.load(folder).model(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tokenizer", ["vocab.txt", "tokenizer.json"])
def test_its_fill_mask_pipeline_gives_the_same_candidates(make, tmp_path, tokenizer):
    _, folder = make(tokenizer=tokenizer)
    found = read_pretrained(folder, tasks=["masked"])
    export(found, tmp_path / "ours")
    ours, vocabulary = llm.load(folder)
    assert "fill-mask" in (tmp_path / "ours" / "README.md").read_text()
    for where in (folder, tmp_path / "ours"):
        model = transformers.BertForMaskedLM.from_pretrained(where)
        pipeline = transformers.pipeline(
            "fill-mask", model, tokenizer=transformers.AutoTokenizer.from_pretrained(where)
        )
        specials = set(vocabulary.special_ids.values())
        for text, filling in zip(TEXTS, fill_masks(ours, vocabulary, TEXTS, k=4), strict=True):
            answers = pipeline(text, top_k=len(WORDS))
            answers = [answers] if isinstance(answers[0], dict) else answers
            for theirs, candidates in zip(answers, filling.masks, strict=True):
                ordinary = [answer for answer in theirs if answer["token"] not in specials]
                total = sum(answer["score"] for answer in ordinary)
                assert [answer["token"] for answer in ordinary[:4]] == [candidate.id for candidate in candidates]
                expected = [answer["score"] / total for answer in ordinary[:4]]
                assert [candidate.probability for candidate in candidates] == pytest.approx(expected, abs=1e-4)


def test_words_of_several_word_pieces_are_ranked(make):
    model, vocabulary = llm.load(make()[1])
    ranked = rank_words(model, vocabulary, "The cat was [MASK].", ["unhappy", "Dark", "nightly"])
    assert {word.word: word.tokens for word in ranked} == {
        "unhappy": ["un", "##happy"],
        "Dark": ["dark"],
        "nightly": ["night", "##ly"],
    }
    (ranked,) = rank_words(model, vocabulary, "The un[MASK] cat", ["happy"])
    assert ranked.tokens == ["##happy"]
    with pytest.raises(TokenizerError, match="the candidate 'zebra' can't be written with this vocabulary"):
        rank_words(model, vocabulary, "The [MASK] sat", ["zebra"])


def test_an_encoder_of_this_package_goes_there_with_zeros_for_what_it_has_not(tmp_path):
    torch.manual_seed(0)
    tokenizer = CharTokenizer.from_text("abcdefghij .").with_special(MASK)
    config = EncoderConfig(
        *(tokenizer.vocab_size, 16), n_layer=2, n_head=2, n_embd=8, norm_first=False, bias=False, vocab_multiple=8
    )
    network = Encoder(config).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    notes = export(Pretrained("llm", config, network.state_dict(), tokenizer, task="masked"), tmp_path / "hf")
    assert any("zeros were written" in note for note in notes)
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    ids = torch.tensor([tokenizer.encode("ab[MASK]d ef.")])
    torch.testing.assert_close(theirs(ids).logits, network(ids), atol=1e-4, rtol=0)
    pipeline = transformers.pipeline("fill-mask", str(tmp_path / "hf"))
    assert pipeline.tokenizer.mask_token == MASK
    assert pipeline("ab[MASK]d ef.", top_k=1)[0]["token"] == int(theirs(ids).logits[0, 2].argmax())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'; only 'absolute'"),
        ({"is_decoder": True}, "is_decoder True"),
        ({"add_cross_attention": True}, "add_cross_attention True"),
        ({"hidden_act": "mish"}, "hidden_act 'mish'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": 25}, "n_embd"),
        ({"num_hidden_layers": 3}, "missing: encoder.layer.2."),
        ({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}, "a Roberta (model_type 'roberta')"),
        ({"model_type": "distilbert"}, "model_type 'distilbert'"),
    ],
)
def test_what_can_not_be_held_is_one_line_that_names_it(make, settings, named):
    _, folder = make()
    change(folder, **settings)
    with pytest.raises(CheckpointError) as raised:
        read_pretrained(folder, any_task=True)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_heads_that_contradict_the_configuration_are_refused(make):
    _, folder = make(tie_word_embeddings=False)
    change(folder, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match="has two biases of it that differ"):
        read_pretrained(folder, any_task=True)
    tensors = load_file(folder / "model.safetensors")
    del tensors["cls.predictions.decoder.bias"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="set tie_word_embeddings to false"):
        read_pretrained(folder, any_task=True)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"norm_first": True}, "norm_first is True"),
        ({"positions": "rotary"}, "positions is rotary"),
        ({"norm": "rms_norm"}, "norm is rms_norm"),
        ({"n_kv_head": 1}, "n_kv_head is 1"),
        ({"head_size": 8}, "head_size is 8"),
        ({"activation": "squared_relu"}, "activation is squared_relu"),
    ],
)
def test_what_its_format_has_no_place_for(tmp_path, settings, named):
    config = EncoderConfig(**{"vocab_size": 9, "n_layer": 1, "n_head": 2, "n_embd": 8, "norm_first": False, **settings})
    with pytest.raises(ConfigError, match=f"BERT's format has no place for this architecture: {named}"):
        export(Pretrained("llm", config, Encoder(config).state_dict()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_context_a_vocabulary_and_a_head_adapted_to_a_run(make):
    theirs, folder = make()
    found = read_pretrained(folder, any_task=True)
    config = EncoderConfig(**{**found.config.to_dict(), "context_length": 9, "vocab_multiple": 8, "tie_head": False})
    ours = build(adapt(found, config)).eval()
    ids = rows(len(WORDS), 9)[0]
    torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    grown = grow_vocabulary(found, len(WORDS) + 2)
    logits = build(grown).eval()(ids)
    torch.testing.assert_close(logits[..., : len(WORDS)], theirs(ids).logits, atol=1e-4, rtol=0)
    with pytest.raises(ConfigError, match="n_segments \\(2 in the weights, 1 requested"):
        adapt(found, EncoderConfig(**{**found.config.to_dict(), "n_segments": 1}))


def test_import_fill_and_export_by_command(make, tmp_path, capsys):
    theirs, folder = make()
    checkpoint, shared, back = (str(tmp_path / name) for name in ("bert.ckpt", "bert.safetensors", "back"))
    assert main(["import", "--from", str(folder), "--out", checkpoint]) == 0
    count = sum(parameter.numel() for parameter in theirs.parameters())
    assert f"Hugging Face (BERT): {count:,} parameters" in capsys.readouterr().out
    assert main(["export", "--ckpt", checkpoint, "--format", "safetensors", "--out", shared]) == 0
    assert main(["export", "--ckpt", checkpoint, "--out", back]) == 0
    capsys.readouterr()
    said = []
    for source in (str(folder), checkpoint, shared, back):
        assert main(["fill", "--ckpt", source, "--text", TEXTS[0], "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said == [said[0]] * 4
    assert main(["generate", "--ckpt", str(folder), "--prompt", "the"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a checkpoint of the task 'masked', not of a language model" in line or "of the task 'masked'" in line
