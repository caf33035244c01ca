"""The begin, end, padding and other special tokens of somebody's weights, and the chat template."""

import json

import pytest
import torch

from llm.config import SamplingConfig
from llm.generation import continue_texts
from llm.pretrained import build, export, load, read_pretrained
from llm.pretrained.checkpoint import checkpoint_of, write_checkpoint
from llm.tokenizers import HuggingFaceTokenizer, Roles

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>\n{% endfor %}"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"]


@pytest.fixture
def chat_model(hugging_face):
    """A folder with a tiny model of chats, whose end is `<|im_end|>`; with what is set in place of that."""

    def make(around=None, settings=None, generation=None, model=None):
        level = tokenizers.pre_tokenizers.ByteLevel
        made = tokenizers.Tokenizer(tokenizers.models.BPE())
        made.pre_tokenizer, made.decoder = level(add_prefix_space=False), tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(initial_alphabet=level.alphabet(), show_progress=False)
        made.train_from_iterator(["the cat sat on the mat"], trainer)
        made.add_special_tokens(SPECIALS)
        if around:
            id_of = [(name, made.token_to_id(name)) for name in SPECIALS]
            made.post_processor = tokenizers.processors.TemplateProcessing(around, None, id_of)
        theirs = transformers.PreTrainedTokenizerFast(
            tokenizer_object=made, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<pad>"
        )
        theirs.chat_template = TEMPLATE
        _, folder = hugging_face(vocab_size=len(theirs))
        theirs.save_pretrained(folder)
        files = {"tokenizer_config.json": settings, "generation_config.json": generation, "config.json": model}
        for name, changes in files.items():
            content = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
            (folder / name).write_text(json.dumps(content | (changes or {})))
        return folder, theirs

    return make


@pytest.mark.parametrize("around", [None, "<|im_start|> $A"])
def test_they_are_kept_and_written_back(chat_model, tmp_path, around):
    folder, theirs = chat_model(around, generation={"_from_model_config": False, "eos_token_id": [0, 5]})
    found = read_pretrained(folder)
    ids = found.tokenizer.special_ids
    assert isinstance(found.tokenizer, HuggingFaceTokenizer) == (around is not None)
    assert found.tokenizer.end_of_text_id == ids["<|im_end|>"]
    assert found.tokenizer.end_ids == (ids["<|im_end|>"], 0, 5)
    assert found.tokenizer.roles.begin_id == ids["<|im_start|>"]
    assert found.tokenizer.chat_template == TEMPLATE

    write_checkpoint(checkpoint_of(found.config, found.weights, found.tokenizer), tmp_path / "chat.ckpt")
    again = read_pretrained(tmp_path / "chat.ckpt")
    assert again.tokenizer.roles == found.tokenizer.roles
    assert export(again, tmp_path / "out") == []
    out = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        assert getattr(out, name) == getattr(theirs, name)
    messages = [{"role": "user", "content": "the cat"}]
    assert out.apply_chat_template(messages)["input_ids"] == theirs.apply_chat_template(messages)["input_ids"]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == [ids["<|im_end|>"], 0, 5]
    assert (model.config.pad_token_id, model.config.bos_token_id) == (ids["<pad>"], ids["<|im_start|>"])
    assert read_pretrained(tmp_path / "out").tokenizer.roles == found.tokenizer.roles


@pytest.mark.parametrize("end", ["<|im_end|>", "<pad>"])
def test_a_text_ends_at_each_of_them(chat_model, tmp_path, end):
    folder, theirs = chat_model()
    pad = theirs.convert_tokens_to_ids("<pad>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [pad]}))
    found = read_pretrained(folder)
    model = build(found).eval()
    with torch.no_grad():  # the next token is the end, whatever comes before
        model.head.weight.zero_()
        model.final_norm.weight.zero_()
        model.final_norm.bias.fill_(1)
        model.head.weight[found.tokenizer.special_ids[end]] = 1
    (text,) = continue_texts(model, found.tokenizer, ["the"], SamplingConfig(temperature=0, max_new_tokens=5))
    assert (text.text, text.ids, text.end) == ("", [], "stop")


def test_a_begin_token_is_put_before_a_prompt_once(chat_model):
    folder, theirs = chat_model("<|im_start|> $A")
    tokenizer = load(folder).tokenizer
    assert tokenizer.encode_prompt("the cat") == theirs("the cat")["input_ids"]
    assert tokenizer.encode_prompt("<|im_start|>the cat") == theirs("the cat")["input_ids"]


def test_what_goes_around_a_text_is_what_its_tokenizer_file_says(chat_model):
    folder, _ = chat_model("<|im_start|> $A <|im_end|>", settings={"add_bos_token": False})
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = load(folder).tokenizer
    assert tokenizer.encode_whole("the cat") == theirs("the cat")["input_ids"]
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ((theirs.bos_token_id,), (theirs.eos_token_id,))


def test_an_end_that_is_no_token_is_said(chat_model):
    folder, _ = chat_model(settings={"eos_token": None}, model={"eos_token_id": 50256})
    found = read_pretrained(folder)
    assert any("the end of text [50256]" in note for note in found.notes)
    assert found.tokenizer.end_of_text_id == found.tokenizer.special_ids["<|endoftext|>"]


def test_a_begin_or_an_end_that_names_no_token_is_said(chat_model):
    folder, _ = chat_model(settings={"eos_token": "</s>", "bos_token": {"content": "<s>"}, "pad_token": "<none>"})
    notes = read_pretrained(folder).notes
    assert [note for note in notes if "no token" in note] == [
        f"the {part} of text {name!r} in {str(folder)!r} is no token of its tokenizer: not used"
        for part, name in (("begin", "<s>"), ("end", "</s>"))
    ]
    folder, _ = chat_model(settings={"eos_token": None, "bos_token": None})
    assert not [note for note in read_pretrained(folder).notes if "no token" in note]


def test_a_chat_template_that_can_not_be_used(chat_model):
    folder, _ = chat_model()
    path = folder / "chat_template.jinja"
    path.write_text("\n ")
    assert read_pretrained(folder).tokenizer.chat_template is None
    path.write_bytes(b"\xff{{")
    assert any(f"can't read the chat template {str(path)!r}" in note for note in read_pretrained(folder).notes)


def test_where_no_tokenizer_file_says_it_the_model_does(hugging_face):
    _, folder = hugging_face(vocab_size=50260, eos_token_id=50256, pad_token_id=50256)
    (folder / "generation_config.json").unlink(missing_ok=True)
    assert read_pretrained(folder).tokenizer.roles == Roles(pad_id=50256)
