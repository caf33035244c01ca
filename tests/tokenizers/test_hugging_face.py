"""Tokenizers of Hugging Face's, whatever they do to a text, against `transformers`."""

import functools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm.errors import TokenizerError
from llm.tokenizers import HuggingFaceTokenizer, Roles, tokenizer_from_dict

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

TEXT = "The cat sat; it's 12345 ﬁne, isn't it? Ünïcode ½ and 猫 😀!\n\n  Two  spaces\tand a tab. [MASK] <s>" * 8
SPECIALS = ["<s>", "</s>", "<unk>", "[MASK]"]
BYTES = pre_tokenizers.ByteLevel.alphabet()


def trained(model, trainer, normalizer=None, pre_tokenizer=None, decoder=None, around=None):
    """A tiny tokenizer of the library, learned from the text above."""
    made = tokenizers.Tokenizer(model)
    for name, part in (("normalizer", normalizer), ("pre_tokenizer", pre_tokenizer), ("decoder", decoder)):
        if part is not None:
            setattr(made, name, part)
    made.train_from_iterator([TEXT], trainer)
    if around is not None:
        ids = [(name, made.token_to_id(name)) for name in SPECIALS[:2]]
        made.post_processor = processors.TemplateProcessing(around, None, ids)
    return made


def bpe(alphabet=(), **options):
    special = {"unk_token": "<unk>"} if not alphabet else {}
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=SPECIALS, initial_alphabet=list(alphabet), show_progress=False
    )
    return trained(models.BPE(**special), trainer, **options)


@functools.cache
def library(name):
    """The library's tokenizer of this name."""
    level = pre_tokenizers.ByteLevel
    if name == "add_prefix_space":
        return bpe(BYTES, pre_tokenizer=level(add_prefix_space=True), decoder=decoders.ByteLevel())
    if name == "lower case, accents":
        normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
        made = level(add_prefix_space=False)
        return bpe(BYTES, normalizer=normalizer, pre_tokenizer=made, decoder=decoders.ByteLevel())
    if name == "NFKC":
        made = level(add_prefix_space=False)
        return bpe(BYTES, normalizer=normalizers.NFKC(), pre_tokenizer=made, decoder=decoders.ByteLevel())
    if name == "another pattern":
        pattern = tokenizers.Regex(r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+|\s+(?!\S)|\s+|[^\s\p{L}\p{N}]+")
        split = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), level(False, use_regex=False)])
        return bpe(BYTES, pre_tokenizer=split, decoder=decoders.ByteLevel())
    if name == "<s> ... </s>":
        made = level(add_prefix_space=False)
        return bpe(BYTES, pre_tokenizer=made, decoder=decoders.ByteLevel(), around="<s> $A </s>")
    if name == "white space":
        return bpe(pre_tokenizer=pre_tokenizers.Whitespace())
    if name == "Llama 2":
        normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        made = bpe(normalizer=normalizer, decoder=decoder, around="<s> $A")
        content = json.loads(made.to_str())
        model = content["model"]
        model |= {"byte_fallback": True, "fuse_unk": True}
        for byte in range(256):
            model["vocab"].setdefault(f"<0x{byte:02X}>", len(model["vocab"]))
        return tokenizers.Tokenizer.from_str(json.dumps(content))
    if name == "WordPiece":
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIALS, show_progress=False)
        model, bert = models.WordPiece(unk_token="<unk>"), pre_tokenizers.BertPreTokenizer()
        return trained(model, trainer, normalizers.BertNormalizer(), bert, decoders.WordPiece(), "<s> $A </s>")
    assert name == "Unigram"
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False, n_sub_iterations=1
    )
    space = pre_tokenizers.Metaspace()
    return trained(models.Unigram(), trainer, normalizers.NFKC(), space, decoders.Metaspace(), "<s> $A </s>")


NAMES = (
    "add_prefix_space",
    "lower case, accents",
    "NFKC",
    "another pattern",
    "<s> ... </s>",
    "white space",
    "Llama 2",
    "WordPiece",
    "Unigram",
)


@functools.cache
def ours(name):
    return HuggingFaceTokenizer(library(name).to_str())


@functools.cache
def reference(name):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=library(name))


texts = st.lists(
    st.one_of(st.sampled_from([*TEXT, *SPECIALS, "  ", "\n\n", "ﬁ", "it's"]), st.characters(exclude_categories=["Cs"]))
).map("".join)


@pytest.mark.parametrize("name", NAMES)
@given(text=texts)
@example(" ?\n\n a  b")
@example("It's 12345 Ünïcode ½ ﬁne<s> 猫😀[MASK]é")
@example("")
def test_ids_and_text_are_those_of_transformers(name, text):
    inner = reference(name)(text, add_special_tokens=False)["input_ids"]
    assert ours(name).encode(text) == inner
    assert ours(name).encode_array(text).tolist() == inner
    if not (text.startswith("<s>") or text.endswith("</s>")):
        assert ours(name).encode_whole(text) == reference(name)(text)["input_ids"]
    theirs = reference(name).decode(inner, clean_up_tokenization_spaces=False)
    assert ours(name).decode(inner) == theirs
    if ours(name).lossless:
        assert theirs == text
        assert b"".join(ours(name).split(text)) == text.encode()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_a_stream_gives_a_piece_a_token_and_together_the_text(name, data):
    tokenizer = ours(name)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    pieces = list(tokenizer.stream(iter(ids)))
    assert len(pieces) == len(ids) + 1
    assert "".join(pieces) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_around_a_text_is_added_once(name):
    tokenizer = ours(name)
    around = "$A" if name not in ("<s> ... </s>", "Llama 2", "WordPiece", "Unigram") else "<s> $A"
    prompt = tokenizer.encode_prompt("cat")
    assert prompt == ([tokenizer.special_ids["<s>"]] if "<s>" in around else []) + tokenizer.encode("cat")
    assert tokenizer.encode_prompt("<s>cat").count(tokenizer.special_ids["<s>"]) == 1
    assert tokenizer.encode_whole("<s>cat</s>").count(tokenizer.special_ids["</s>"]) == 1


def test_documents_begin_as_the_model_has_seen_them():
    begin, end = (ours("Unigram").special_ids[name] for name in ("<s>", "</s>"))
    assert ours("Unigram").document_start(is_first=True) == [begin]
    assert ours("Unigram").document_start(is_first=False) == [end, begin]
    same = ours("Unigram").with_roles(Roles(end_ids=(begin,)))
    assert same.document_start(is_first=False) == [begin], "once, where begin and end are one token"
    assert ours("NFKC").document_start(is_first=True) == []


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_in_a_text_as_text(name):
    tokenizer = ours(name)
    mask = tokenizer.special_ids["[MASK]"]
    assert mask in tokenizer.encode("a [MASK] b")
    assert mask not in tokenizer.encode("a [MASK] b", as_text=True)
    assert tokenizer.encode_array("cat [MASK]", as_text=True).tolist() == tokenizer.encode("cat [MASK]", as_text=True)


def test_padding_truncation_and_dropout_are_left_out():
    made = tokenizers.Tokenizer.from_str(library("NFKC").to_str())
    made.enable_padding(length=50)
    made.enable_truncation(2)
    content = json.loads(made.to_str())
    content["model"]["dropout"] = 0.9
    assert HuggingFaceTokenizer(json.dumps(content)) == ours("NFKC")


@pytest.mark.parametrize("definition", ["", "{}", "[1]", '{"model": {"type": "Magic"}}'])
def test_what_the_library_can_not_use(definition):
    with pytest.raises(TokenizerError, match=r"can't use this tokenizer.json"):
        HuggingFaceTokenizer(definition)


def test_bytes_of_tokens():
    assert ours("WordPiece").split("cats") == [b"cat", b"##s"]
    llama = ours("Llama 2")
    assert b"".join(llama.split("猫 Ω")) == " 猫 Ω".encode()
    assert ours("NFKC").decode(ours("NFKC").encode("ﬁ")) == "fi"


# Roles


def test_roles_travel_and_do_not_make_another_tokenizer():
    tokenizer = ours("Unigram")
    ids = tokenizer.special_ids
    roles = Roles(ids["<s>"], (ids["</s>"],), ids["<unk>"], ids["<unk>"], ids["[MASK]"], chat_template="{{ 1 }}")
    with_roles = tokenizer.with_roles(roles)
    assert with_roles == tokenizer
    assert with_roles.fingerprint == tokenizer.fingerprint, "its token ids on disk are the same"
    again = tokenizer_from_dict(json.loads(json.dumps(with_roles.to_dict())))
    assert (again.roles, again.chat_template) == (with_roles.roles, "{{ 1 }}")
    assert (again.roles.mask_id, again.roles.begin_id) == (ids["[MASK]"], ids["<s>"])
    assert tokenizer.roles == Roles(), "the one it was made from is as it was"
    assert again.with_special("<new>").roles == again.roles


def test_another_end_of_text_makes_another_tokenizer():
    tokenizer = ours("Unigram")
    ids = tokenizer.special_ids
    other = tokenizer.with_roles(Roles(end_ids=(ids["[MASK]"], ids["</s>"])))
    assert (tokenizer.end_of_text_id, tokenizer.end_ids) == (ids["</s>"], (ids["</s>"],))
    assert (other.end_of_text_id, other.end_ids) == (ids["[MASK]"], (ids["[MASK]"], ids["</s>"]))
    assert other != tokenizer


@pytest.mark.parametrize(
    "roles", [{"end_ids": [10**6]}, {"begin_id": -1}, {"pad_id": "a"}, {"chat_template": 1}, {"end_ids": [True]}, []]
)
def test_roles_that_can_not_be(roles):
    with pytest.raises(TokenizerError):
        tokenizer_from_dict({**ours("NFKC").to_dict(), "roles": roles})
