import pytest

from llm.errors import DataError
from llm.evaluation.translation import tokenization_for, translation_metrics


def test_of_texts_that_are_the_same():
    found = translation_metrics(["It is a good day today."], ["It is a good day today."])
    assert found == pytest.approx({"bleu_13a": 100.0, "chrf": 100.0, "exact": 1.0})


def test_punctuation_is_split_off_from_text_as_it_is_read():
    """A reference that was tokenized before is another text: figures of the two can't be compared."""
    said, reference = "Hello, my old friend from home.", "Hello, my old friend from here."
    # 13a: Hello | , | my | old | friend | from | home/here | . -> precisions 7/8, 5/7, 4/6, 3/5
    expected = 100 * (7 / 8 * 5 / 7 * 4 / 6 * 3 / 5) ** 0.25
    assert translation_metrics([said], [reference])["bleu_13a"] == pytest.approx(expected, abs=1e-3)
    assert translation_metrics([said], [reference], "none")["bleu_none"] != pytest.approx(expected, abs=1)


def test_chinese_is_compared_by_its_characters():
    found = translation_metrics(["今天天气很好。"], ["今天天气不好。"])
    assert set(found) == {"bleu_zh", "chrf", "exact"}
    assert found["bleu_zh"] == pytest.approx(100 * (6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25, abs=1e-3)
    assert found["exact"] == 0
    assert tokenization_for(["我有一个 iPad 和一本书"]) == "zh"
    assert tokenization_for(["The word 你好 means hello"]) == "13a"
    assert tokenization_for(["1979-05-03"]) == "13a"


def test_it_is_of_a_corpus_and_not_a_mean_of_sentences():
    long, short = "a b c d e f g h", "a x"
    found = translation_metrics([long, short], [long, "a b c d e"])
    alone = [translation_metrics([one], [other])["bleu_13a"] for one, other in ((long, long), (short, "a b c d e"))]
    assert found["bleu_13a"] != pytest.approx(sum(alone) / 2, abs=1)


def test_what_can_not_be_compared():
    for texts, references in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(DataError, match="expected a translation for each reference"):
            translation_metrics(texts, references)
