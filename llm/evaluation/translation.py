"""How good translations are, against references: BLEU, chrF, and how many are the same.

All are of the texts as a reader sees them, detokenized; BLEU's own tokenization is that of sacreBLEU (Post 2018), and
part of its name, since figures with different ones can't be compared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from llm.errors import DataError

Tokenization = Literal["13a", "zh", "char", "intl", "none"]
"""Of sacreBLEU: `13a` splits off punctuation, `zh` also cuts Chinese into characters, `char` everything."""

_CHINESE = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_LETTER = re.compile(r"[^\W\d_]")


def tokenization_for(texts: Sequence[str]) -> Tokenization:
    """`zh` where most letters are Chinese characters, which no space separates; else `13a`."""
    text = "".join(texts)
    return "zh" if 2 * len(_CHINESE.findall(text)) > len(_LETTER.findall(text)) else "13a"


def translation_metrics(
    translations: Sequence[str], references: Sequence[str], tokenization: Tokenization | None = None
) -> dict[str, float]:
    """By name: `bleu_TOKENIZATION` and `chrf` from 0 to 100, and `exact`, the fraction equal to its reference.

    Args:
        translations: one for each reference.
        references: what a person wrote.
        tokenization: of BLEU. Default: `tokenization_for` the references.

    Raises:
        DataError: there are none, or not as many of the one as of the other.
    """
    from torchmetrics.functional.text import chrf_score, sacre_bleu_score

    if not references or len(translations) != len(references):
        raise DataError(f"expected a translation for each reference, got {len(translations)} and {len(references)}")
    tokenization = tokenization or tokenization_for(references)
    several = [[reference] for reference in references]
    bleu = sacre_bleu_score(translations, several, tokenize=tokenization)
    chrf = chrf_score(translations, several, n_word_order=0)
    same = sum(found == wanted for found, wanted in zip(translations, references, strict=True))
    return {
        f"bleu_{tokenization}": 100 * float(bleu),
        "chrf": 100 * float(chrf),  # type: ignore[arg-type]
        "exact": same / len(references),
    }
