"""`python -m llm neighbours`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llm.commands.options import add_json
from llm.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from llm.pretrained.vectors import NamedVectors

_SIGNS = {"+": 1.0, "-": -1.0}
_WIDTH = 30
_NO_LENGTH = 1e-6
"""Of a sum of unit vectors: what rounding leaves of words that cancel out."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("words", nargs="+", metavar="WORD", help="words; with signs between them, an analogy: king - man + woman")
    add(
        "--ckpt",
        required=True,
        action="append",
        metavar="FILE",
        help="vectors: a checkpoint of any task, or word2vec's .txt or .bin; several are shown side by side",
    )
    add("--top_k", type=int, default=10, help="neighbours of each; 0: all (%(default)s)")
    add_json(parser)


class Query(NamedTuple):
    """Words, each with a sign.

    Args:
        text: as it is shown.
        words: without their signs.
        signs: 1 or -1 for each.
    """

    text: str
    words: list[str]
    signs: list[float]


def parse_queries(text: str) -> list[Query]:
    """Words one after the other are queries of their own; a sign joins two.

    Raises:
        ConfigError: a sign without a word behind it, or no word at all.
    """
    queries: list[Query] = []
    sign: str | None = None
    for piece in text.split():
        if piece in _SIGNS:
            if sign is not None:
                raise ConfigError(f"expected a word behind {sign!r}, got {piece!r}; such as: king - man + woman")
            sign = piece
        elif sign is None or not queries:
            queries.append(Query(f"{sign} {piece}" if sign else piece, [piece], [_SIGNS.get(sign or "+", 1.0)]))
            sign = None
        else:
            before = queries.pop()
            words, signs = [*before.words, piece], [*before.signs, _SIGNS[sign]]
            queries.append(Query(f"{before.text} {sign} {piece}", words, signs))
            sign = None
    if sign is not None:
        raise ConfigError(f"expected a word behind {sign!r}, got nothing; such as: king - man + woman")
    if not queries:
        raise ConfigError("expected a word, got nothing; such as: king, or king - man + woman")
    return queries


def run(arguments: argparse.Namespace) -> None:
    """Print the nearest neighbours of each word or analogy, by cosine similarity.

    Raises:
        LLMError: the vectors can't be read, or have no vector for a word; says which names are near.
    """
    from llm.pretrained.vectors import read_vectors

    if arguments.top_k < 0:
        raise ConfigError(f"top_k must be at least 1, or 0 for all, got {arguments.top_k}")
    queries = parse_queries(" ".join(arguments.words))
    models = [(path, read_vectors(path)) for path in arguments.ckpt]
    problems = [{path: _problem(query, vectors) for path, vectors in models} for query in queries]
    if nowhere := [found[models[0][0]] for found in problems if all(found.values())]:
        raise ConfigError(*map(str, nowhere))
    if not arguments.json and len(models) > 1:
        print("".join(f"{_label(path)[-_WIDTH + 2 :]:{_WIDTH}}" for path, _ in models).rstrip())
    for query, problems_of_query in zip(queries, problems, strict=True):
        missing = {path: problem for path, problem in problems_of_query.items() if problem}
        found = [[] if path in missing else _nearest(query, vectors, arguments.top_k) for path, vectors in models]
        if arguments.json:
            for (path, _), neighbours in zip(models, found, strict=True):
                named = [{"word": word, "cosine": round(cosine, 6)} for word, cosine in neighbours]
                print(json.dumps({"query": query.text, "model": path, "neighbours": named}, ensure_ascii=False))
            continue
        print(query.text)
        for row in range(max(map(len, found))):
            cells = [f"{column[row][0]:20} {column[row][1]:.3f}" if row < len(column) else "" for column in found]
            print("".join(f"  {cell:{_WIDTH - 2}}" for cell in cells).rstrip())
        for path, problem in missing.items():
            print(f"  {path}: {problem}")


def _label(path: str) -> str:
    """What tells a table from others: the run and its version where it is a run's checkpoint, else the path."""
    parts = Path(path).parts
    return "/".join(parts[-4:-2]) if len(parts) > 3 and parts[-2] == "checkpoints" else path


def _problem(query: Query, vectors: NamedVectors) -> str | None:
    """What to say of a word that has no vector, or of words that add up to none."""
    for word in query.words:
        if vectors.find(word) is None:
            near = vectors.near(word)
            advice = f"near it: {', '.join(near)}" if near else "nothing is spelled like it"
            return f"{word!r} is not in the vocabulary of {len(vectors.names):,} {vectors.kind}; {advice}"
    if not bool(_sum(query, vectors).norm() > _NO_LENGTH):
        return f"{query.text!r} is the zero vector, which has no direction: no word is near it"
    return None


def _sum(query: Query, vectors: NamedVectors) -> Tensor:
    """The sum of the words' unit vectors, each with its sign (Mikolov et al. 2013), (C)."""
    import torch
    import torch.nn.functional as F

    units = F.normalize(vectors.table[_ids(query, vectors)], dim=-1)  # (N, C)
    return torch.tensor(query.signs) @ units  # (N) x (N, C) -> (C)


def _ids(query: Query, vectors: NamedVectors) -> list[int]:
    return [number for word in query.words if (number := vectors.find(word)) is not None]


def _nearest(query: Query, vectors: NamedVectors, top_k: int) -> list[tuple[str, float]]:
    """Neighbours of the words' sum, the words themselves left out; all where `top_k` is 0."""
    import torch

    from llm.inspection.embeddings import nearest_to
    from llm.inspection.ticks import visible

    words = torch.tensor([_ids(query, vectors)])
    found, cosines = nearest_to(vectors.table, _sum(query, vectors)[None], words, top_k or len(vectors.names))
    names = (visible(vectors.names[number].encode(), 20) for number in found[0].tolist())
    return list(zip(names, cosines[0].tolist(), strict=True))
