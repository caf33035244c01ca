from llm.data.chat.errands import SIZES, errands


def turns(conversation):
    return [
        (ask.content, ask.input, answer.content)
        for ask, answer in zip(conversation[::2], conversation[1::2], strict=True)
    ]


def test_they_are_many_different_and_the_same_each_time():
    train = list(errands("train"))
    assert len(set(train)) == SIZES["train"] >= 5000
    assert train == list(errands("train"))
    assert len(set(errands("held_out"))) == SIZES["held_out"]


def test_held_out_wordings_are_never_trained_on_but_their_words_are():
    train, held_out = ([turn for talk in errands(split) for turn in turns(talk)] for split in ("train", "held_out"))
    assert not {ask for ask, _, _ in train} & {ask for ask, _, _ in held_out}
    words = [{word for turn in split for text in turn for word in text.split()} for split in (train, held_out)]
    assert words[1] <= words[0]


def test_each_has_one_right_answer():
    answers: dict[tuple[str, str], set[str]] = {}
    for split in ("train", "held_out"):
        for talk in errands(split):
            for ask, about, answer in turns(talk):
                answers.setdefault((ask, about), set()).add(answer)
    assert all(len(found) == 1 for found in answers.values())


def test_some_right_answers():
    found = {(ask, about): answer for talk in errands("train") for ask, about, answer in turns(talk)}
    (price,) = {answer for (ask, _), answer in found.items() if "three" in ask and "cakes cost" in ask}
    assert price == "Three cakes cost 270 pence."
    for (ask, about), answer in found.items():
        if "German" in ask:
            assert answer.split()[0] == about.split()[0], "who does it"
