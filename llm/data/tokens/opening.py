"""What a corpus is, text or token ids, and which tokenizer goes with it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from llm.config import TokenizerConfig
from llm.data.reading.corpus import KNOWN_CORPORA, resolve_corpus, sources_of
from llm.data.reading.hashing import corpus_hash
from llm.data.reading.progress import reading_progress
from llm.data.reading.sources import read_chunks
from llm.data.tokens.store import DESCRIPTION, VERSION, TokenStore, open_raw
from llm.data.tokens.tokenize import Plan, SpecialTokens, source_hash, tokenize
from llm.errors import ConfigError, DataError, LLMError, TokenizerError
from llm.runtime.files import write_whole
from llm.tokenizers import LEARNED, BytePairTokenizer, CharTokenizer, Tokenizer, build_tokenizer, tokenizer_from_dict

log = logging.getLogger(__name__)

REMEMBERED_FROM = 16 << 20
"""Size of a text in bytes from which a learned vocabulary is cached."""


def open_corpus(
    corpus: str | Sequence[str],
    tokenizer: Tokenizer,
    cache_dir: str | Path,
    special_tokens: SpecialTokens = "as_tokens",
) -> TokenStore:
    """The token ids of a corpus: its own, those in the cache, or made now.

    Args:
        corpus: text, as for `resolve_corpus`; or the folder of a token store; or nanoGPT's raw `.bin`.
        tokenizer: encodes text; token ids must have been encoded with it.
        cache_dir: where stores of texts are kept.
        special_tokens: what those in a text are; of token ids that is decided.

    Raises:
        DataError: the corpus can't be read, or another tokenizer wrote its ids.
        TokenizerError: a text can't be encoded.
    """
    path = find_token_ids(corpus)
    if path is None:
        return open_or_build(resolve_corpus(corpus), tokenizer, cache_dir, special_tokens=special_tokens)
    if path.is_file():
        return open_raw(path, tokenizer, corpus_hash([path], cache_dir))
    store = TokenStore.open(path)
    if store.fingerprint != tokenizer.fingerprint:
        raise DataError(
            f"{str(path)!r} holds ids of the tokenizer {_name(store)!r} with the fingerprint {store.fingerprint}; the "
            f"tokenizer of this run has {tokenizer.fingerprint}: use that one, or tokenize the text again"
        )
    return store


def hash_of_corpus(
    corpus: str | Sequence[str], cache_dir: str | Path, special_tokens: SpecialTokens = "as_tokens"
) -> str:
    """The `source_hash` that the store of a corpus has, without making it.

    Raises:
        DataError: the corpus can't be read.
    """
    path = find_token_ids(corpus)
    if path is None:
        return source_hash(resolve_corpus(corpus), cache_dir=cache_dir, special_tokens=special_tokens)
    return corpus_hash([path], cache_dir) if path.is_file() else TokenStore.open(path).source_hash


def open_or_build(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    cache_dir: str | Path,
    text_hash: str | None = None,
    special_tokens: SpecialTokens = "as_tokens",
) -> TokenStore:
    """The token store of some files, made now if the cache holds none for this text and this tokenizer.

    Args:
        paths: the files, in order.
        tokenizer: what encodes them.
        cache_dir: where stores are kept, each in a folder of its own.
        text_hash: `source_hash(paths, special_tokens=special_tokens)`, if it is known already.
        special_tokens: what those in a text are.

    Raises:
        DataError: a document can't be read, or the cache can't be written.
        TokenizerError: a document can't be encoded; names the document.
    """
    plan = Plan(paths, tokenizer, source_hash=text_hash or "", cache_dir=cache_dir, special_tokens=special_tokens)
    target = Path(cache_dir) / cache_key(plan.source_hash, plan.fingerprint)
    try:
        with contextlib.suppress(FileNotFoundError):
            try:
                store = TokenStore.open(target)
                if (store.source_hash, store.fingerprint) == (plan.source_hash, plan.fingerprint):
                    return store
                log.warning("token cache %r is another text's or tokenizer's; building it again", str(target))
            except DataError as error:
                log.warning("%s; building it again", error)
            shutil.rmtree(target)
        try:
            return tokenize(plan, target)
        except LLMError:  # it is useless: a corrected text has another key
            shutil.rmtree(target, ignore_errors=True)
            raise
    except OSError as error:
        raise DataError(
            f"can't use the token cache {str(target)!r}: {error.strerror}; choose another cache_dir"
        ) from error


def choose_tokenizer(corpus: str | Sequence[str], config: TokenizerConfig, cache_dir: str | Path) -> Tokenizer:
    """The tokenizer of a token store; else the one that a configuration describes, learned from the corpus if need be.

    Raises:
        ConfigError: the configuration asks for another tokenizer than the store's, or for one that would have to
            learn from token ids.
        DataError: the corpus can't be read.
        TokenizerError: there is no such tokenizer.
    """
    path = find_token_ids(corpus)
    if path is None:
        return learn_tokenizer(config, resolve_corpus(corpus), cache_dir=cache_dir)
    if path.is_file():
        if config.kind in LEARNED:
            raise ConfigError(
                f"a {config.kind} vocabulary can't be learned from the token ids in {str(path)!r}; give the tokenizer "
                "that wrote them, or a checkpoint that holds it (tokenizer.checkpoint)"
            )
        return build_tokenizer(config)
    store = TokenStore.open(path)
    asked = {name: getattr(config, name) for name in ("kind", "pattern", "vocab_size")}
    asked["specials"] = None if config.specials is None else list(config.specials)
    tokenizer = store.make_tokenizer()
    found = {
        "kind": _name(store),
        "specials": list(store.tokenizer.get("specials", ())),
        "pattern": getattr(tokenizer, "pattern", None),
        "vocab_size": tokenizer.vocab_size,
    }
    for setting, value in asked.items():
        if value is not None and value != found[setting]:
            raise ConfigError(
                f"{str(path)!r} was tokenized with {setting} {found[setting]!r}; leave tokenizer.{setting} {value!r} "
                "out, or tokenize the text again"
            )
    return tokenizer


def find_token_ids(corpus: str | Sequence[str]) -> Path | None:
    """The folder of a token store or the raw `.bin` that a corpus names; None if it is text.

    Raises:
        DataError: a token store is not finished, or is one of several sources.
    """
    sources = sources_of(corpus)
    for source in sources:
        path = Path(source).expanduser()
        try:
            is_folder, is_raw = path.is_dir(), path.suffix == ".bin" and path.is_file()
        except OSError:  # too long for a path, for instance
            continue
        if source in KNOWN_CORPORA or not (is_folder or is_raw):
            continue
        if is_folder and not (path / DESCRIPTION).is_file():
            if next(path.glob("*.tokens"), None) is not None:
                raise DataError(f"{source!r} is a token store that is not finished; run its `tokenize` command again")
            continue
        if len(sources) > 1:
            raise DataError(f"{source!r} holds token ids, which can't be joined with other sources; give it alone")
        return path
    return None


def learn_tokenizer(
    config: TokenizerConfig, paths: Sequence[Path], field: str = "text", cache_dir: str | Path | None = None
) -> Tokenizer:
    """The tokenizer that a configuration describes; a vocabulary is learned from the files, which are streamed.

    Args:
        config: the kind and its options.
        paths: what a vocabulary is learned from.
        field: of JSON records, or the column of Parquet files, that holds the text.
        cache_dir: keep the vocabulary of a large text here, so that it is learned only once.

    Raises:
        DataError: the vocabulary has to be learned from files that can't be read.
        TokenizerError: there is no such tokenizer.
    """
    if config.kind not in LEARNED:
        return build_tokenizer(config)
    kept = None
    if cache_dir is not None and sum(path.stat().st_size for path in paths if path.is_file()) >= REMEMBERED_FROM:
        described = json.dumps(dataclasses.asdict(config))
        kept = Path(cache_dir) / f"{cache_key(source_hash(paths, field, cache_dir), described)}.tokenizer.json"
        try:
            return tokenizer_from_dict(json.loads(kept.read_text(encoding="utf-8")))
        except (OSError, ValueError, TokenizerError):
            pass  # not there, or damaged: learn it again
    tokenizer = build_tokenizer(config, _texts(paths, field))
    if kept is not None:
        try:
            write_whole(kept, json.dumps(tokenizer.to_dict()).encode())
        except OSError as error:
            raise DataError(f"can't write {str(kept)!r}: {error.strerror}; choose another cache_dir") from error
    return tokenizer


def _texts(paths: Sequence[Path], field: str) -> Iterator[str]:
    """The texts of files, or parts of them, with a progress bar."""
    with reading_progress(paths, "vocabulary") as report:
        for chunk in read_chunks(paths, CharTokenizer.cuts, field):
            yield from chunk.texts
            report(chunk)


def cache_key(*parts: str) -> str:
    """A file name for what depends on these."""
    return hashlib.sha256(" ".join([*parts, str(VERSION)]).encode()).hexdigest()[:32]


def _name(store: TokenStore) -> str:
    """What a configuration calls a store's tokenizer."""
    name = str(store.tokenizer.get("encoding", store.tokenizer.get("kind")))
    return "bpe" if name == BytePairTokenizer.kind else name
