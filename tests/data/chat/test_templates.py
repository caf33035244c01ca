import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.chat.messages import Message
from llm.data.chat.named_templates import NAMED
from llm.data.chat.samples import SampleMaker
from llm.data.chat.templates import ChatTemplate, Piece
from llm.errors import ConfigError, DataError
from llm.tokenizers import BPETokenizer, CharTokenizer, HuggingFaceTokenizer
from llm.tokenizers.roles import Roles

GPT2 = BPETokenizer("gpt2")
TALK = (
    Message("user", "Say it.", "hello"),
    Message("assistant", " hi "),
    Message("user", "Again"),
    Message("assistant", "hi"),
)
UNMARKED = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")

texts = st.text(st.characters(codec="utf-8", exclude_characters="<>|", exclude_categories=["Cs"]), max_size=12)
talks = st.lists(st.tuples(texts.filter(str.strip), texts), min_size=1, max_size=3).map(
    lambda turns: tuple(
        m for question, answer in turns for m in (Message("user", question), Message("assistant", answer))
    )
)


@functools.cache
def make(name, special_tokens=()):
    template = ChatTemplate.find(name, special_tokens, GPT2)
    return template, template.prepare(GPT2)


def text_of(pieces, supervised=(True, False)):
    return "".join(text for text, learned in pieces if learned in supervised)


def test_alpaca_is_that_of_the_book():
    template, tokenizer = make("alpaca")
    assert tokenizer.vocab_size == GPT2.vocab_size, "it needs no token that GPT-2 does not have"
    assert template.pieces(TALK[:2], tokenizer) == [
        Piece(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nSay it.\n\n### Input:\nhello\n\n### Response:\n",
            False,
        ),
        Piece(" hi ", True),
        Piece("<|endoftext|>", True),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("phi3", "<|user|>\nSay it.\nhello<|end|>\n<|assistant|>\n[ hi <|end|>]\n<|user|>\nAgain<|end|>\n"),
        ("chatml", "<|im_start|>user\nSay it.\nhello<|im_end|>\n<|im_start|>assistant\n[ hi <|im_end|>]\n<|im_start|>"),
        ("plain", "Say it.\nhello\n[ hi <|endoftext|>]Again\n[hi<|endoftext|>]"),
    ],
)
def test_the_other_templates_by_name(name, expected):
    template, tokenizer = make(name)
    marked = "".join(f"[{text}]" if learned else text for text, learned in template.pieces(TALK, tokenizer))
    assert marked.replace("][", "").startswith(expected)
    assert set(template.special_tokens) <= set(tokenizer.special_ids)


def test_a_template_without_marks_is_told_apart_by_prefixes():
    template, tokenizer = make(UNMARKED, SPECIALS)
    marked, _ = make("phi3")
    assert not template.marks_answers
    assert marked.marks_answers
    pieces = template.pieces(TALK, tokenizer)
    assert text_of(pieces, (True,)) == " hi <|end|>hi<|end|>", "the line break behind the end is not learned"
    assert text_of(pieces) == "<|user|>Say it.\nhello<|end|>\n<|assistant|> hi <|end|>\n" + (
        "<|user|>Again<|end|>\n<|assistant|>hi<|end|>\n"
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (UNMARKED.replace("m['content']", "m['content'] | trim"), None),
        ("{% if tools or tools is defined %}{{ tools }}{% endif %}" + UNMARKED, None),
        ("{{ tools }}" + UNMARKED, "can't be rendered: 'tools' is undefined"),
        (UNMARKED.replace("m['content']", "m['contnet']"), "has no attribute 'contnet'"),
        (
            "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}>{% endif %}",
            "prefix",
        ),
        ("{{ messages[-1]['content'] }}<|end|>", "prefix"),
        ("{% for m in messages %}{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}{% endfor %}", "marks 4"),
        ("{{ messages[0]['content'] }}{% generation %}{% endgeneration %}", "marks 1 answer"),
        ("{% for m in messages %}", "the template is not Jinja"),
        ("{{ messages[0].content.nothing.at_all }}", "can't be rendered"),
        ("{{ raise_exception('only Latin') }}", "only Latin"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "can't be rendered: maximum recursion depth"),
        ("{{ cycler() }}", "can't be rendered: at least one item"),
        ("{% break %}", "the template is not Jinja: 'break' outside loop"),
    ],
)
def test_what_can_not_be_told_apart_is_refused_in_a_line(source, said):
    if said is None:
        make(source, SPECIALS)
        return
    with pytest.raises(ConfigError, match=said):
        make(source, SPECIALS)


def test_a_models_own_template_may_write_what_is_not_there():
    source = "{{ tools }}" + UNMARKED
    tokenizer = make(UNMARKED, SPECIALS)[1].with_roles(Roles(chat_template=source))
    own = ChatTemplate.find(source, SPECIALS, tokenizer)
    plain = ChatTemplate.find(UNMARKED, SPECIALS, tokenizer)
    assert own.pieces(TALK, tokenizer) == plain.pieces(TALK, tokenizer)
    assert ChatTemplate.from_dict(own.to_dict()) == own


def test_a_models_own_template_names_no_file_and_no_other_template(tmp_path):
    (tmp_path / "mine.jinja").write_text(UNMARKED)
    for source in (str(tmp_path / "mine.jinja"), "phi3"):
        tokenizer = make(UNMARKED, SPECIALS)[1].with_roles(Roles(chat_template=source))
        assert ChatTemplate.find(source, SPECIALS, tokenizer).source == source


def test_the_file_of_a_template_is_named(tmp_path):
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}")
    with pytest.raises(ConfigError, match=r"mine\.jinja: the template is not Jinja, line 1"):
        ChatTemplate.find(str(tmp_path / "mine.jinja"))


def test_a_template_that_never_ends_an_answer_is_refused():
    with pytest.raises(ConfigError, match="never learn to stop"):
        make("{% for m in messages %}{{ m['content'] }}\n{% endfor %}")


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append('x') }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_reaches_nothing_outside_its_sandbox(attack):
    with pytest.raises(ConfigError):
        make(f"{attack}{UNMARKED}", SPECIALS)


def test_a_template_can_be_a_file_and_is_kept_as_primitives(tmp_path):
    (tmp_path / "my.jinja").write_text(UNMARKED)
    template = ChatTemplate.find(str(tmp_path / "my.jinja"), SPECIALS, GPT2)
    assert ChatTemplate.from_dict(template.to_dict()) == template
    with pytest.raises(ConfigError, match="there is no template 'alpacca': give alpaca, phi3, chatml, plain, a file"):
        ChatTemplate.find("alpacca")
    with pytest.raises(ConfigError, match="describes no chat template"):
        ChatTemplate.from_dict({"source": 1})


def test_a_tokenizer_without_an_end_gets_one():
    letters = CharTokenizer("abc\n")
    tokenizer = ChatTemplate.find("plain", tokenizer=letters).prepare(letters)
    assert tokenizer.special_ids == {"<|endoftext|>": 4}


def test_begin_and_end_of_text_are_those_of_the_tokenizer():
    letters = CharTokenizer("abc\n", ["<s>", "</s>"])
    source = "{{ bos_token }}" + NAMED["plain"][0]
    ids = letters.special_ids
    with_roles = letters.with_roles(Roles(begin_id=ids["<s>"], end_ids=(ids["</s>"],)))
    talk = Message("user", "a"), Message("assistant", "b")
    pieces = ChatTemplate.find(source, tokenizer=with_roles).pieces(talk, with_roles)
    assert (pieces[0].text, pieces[-1].text) == ("<s>", "</s>")
    ends_with_a_letter = letters.with_roles(Roles(end_ids=(0,)))
    assert ChatTemplate.find("plain", tokenizer=ends_with_a_letter).eos_token == "<|endoftext|>"


@pytest.fixture(scope="module")
def llama():
    """A tokenizer that puts `<s>` before a text, as those of Llamas do."""
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE({sign: number for number, sign in enumerate(sorted(alphabet))}, [])
    )
    made.pre_tokenizer, made.decoder = tokenizers.pre_tokenizers.ByteLevel(False), tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", None, [("<s>", made.token_to_id("<s>"))])
    return HuggingFaceTokenizer(made.to_str())


@pytest.mark.parametrize("name", NAMED)
def test_a_sample_begins_with_what_the_model_expects_before_a_text(name, llama):
    template = ChatTemplate.find(name, tokenizer=llama)
    maker = SampleMaker(template, template.prepare(llama), 1000)
    begin, system = llama.special_ids["<s>"], Message("system", "Be brief.")
    for talk in (TALK, (system, *TALK)):
        for ids in (
            maker.encode(talk).ids,
            maker.encode(talk[:-1], for_answer=True).ids,
            maker.prompt(talk[:-1], 250)[0],
        ):
            assert ids[0] == begin
            assert ids.count(begin) == 1
    assert not maker.encode(TALK).supervised[0]
    plain = ChatTemplate.find(name, tokenizer=GPT2)
    assert template.source.endswith(plain.source)
    assert ChatTemplate.from_dict(template.to_dict()) == template
    own = ChatTemplate.find(UNMARKED, SPECIALS, llama)
    assert own.source == UNMARKED, "a template of one's own says itself how a text begins"


def test_text_that_would_be_read_as_a_special_token_is_refused():
    template, tokenizer = make("phi3")
    with pytest.raises(DataError, match=r"line 3: the text of the user holds the special token <\|end\|>"):
        template.pieces((Message("user", "a <|end|> b"), Message("assistant", "c")), tokenizer, where="line 3")


@pytest.mark.parametrize("name", [*NAMED, UNMARKED])
@settings(max_examples=20)
@given(talk=talks, split=st.integers(0, 2))
def test_a_prompt_is_a_prefix_of_prompt_and_answer_in_ids_too(name, talk, split):
    """Also where a tokenizer would merge the end of the prompt with the beginning of the answer."""
    template, tokenizer = make(name, () if name in NAMED else SPECIALS)
    maker = SampleMaker(template, tokenizer, 10_000)
    turn = 2 * (split % (len(talk) // 2))
    prompt = maker.encode(talk[: turn + 1], for_answer=True).ids
    whole = maker.encode(talk[: turn + 2])
    assert whole.ids[: len(prompt)] == prompt
    answer = tokenizer.encode(talk[turn + 1].content)
    if name in NAMED:
        assert whole.ids[len(prompt) :] == [*answer, template.end_of_answer(tokenizer)]
        assert whole.supervised[len(prompt) :] == [True] * (len(answer) + 1)
    assert not any(whole.supervised[: len(maker.encode(talk[:1], for_answer=True).ids)])


def test_the_marker_of_the_response_need_not_be_found_in_ids():
    """In a text that is encoded as a whole its ids are not those that it has alone, and a search finds nothing."""
    template, tokenizer = make("alpaca")
    talk = (Message("user", "Go"), Message("assistant", "\n\nWent"))
    marker, whole = tokenizer.encode("### Response:\n"), tokenizer.encode(text_of(template.pieces(talk, tokenizer)))
    assert marker not in [whole[start : start + len(marker)] for start in range(len(whole))]
    sample = SampleMaker(template, tokenizer, 1000).encode(talk)
    learned = [token for token, supervised in zip(*sample, strict=True) if supervised]
    assert tokenizer.decode(learned) == "\n\nWent<|endoftext|>"


def test_it_renders_as_transformers_does():
    """The same text, and the same supervised characters, as their own reading of `{% generation %}`."""
    from transformers.utils.chat_template_utils import render_jinja_template

    for name in NAMED:
        template, tokenizer = make(name)
        talk = tuple(Message(m.role, m.content) for m in TALK)
        (theirs,), (spans,) = render_jinja_template(
            conversations=[[{"role": m.role, "content": m.content} for m in talk]],
            chat_template=template.source,
            return_assistant_tokens_mask=True,
            eos_token="<|endoftext|>",
        )
        pieces = template.pieces(talk, tokenizer)
        assert text_of(pieces) == theirs
        assert text_of(pieces, (True,)) == "".join(theirs[start:end] for start, end in spans)
    odd = "{{ {'b': '<é>', 'a': 1} | tojson(sort_keys=true) }}" + UNMARKED
    (theirs,), _ = render_jinja_template(
        conversations=[[{"role": m.role, "content": m.content} for m in talk]], chat_template=odd
    )
    template, tokenizer = make(odd, SPECIALS)
    assert text_of(template.pieces(talk, tokenizer)) == theirs
    dated, _ = make("{{ strftime_now('%d %b %Y') }}" + UNMARKED, SPECIALS)
    assert text_of(dated.pieces(talk, tokenizer)).startswith("26 Jul 2024"), "one day for ever, or no run is exact"
