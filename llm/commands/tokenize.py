"""`python -m llm tokenize`."""

from __future__ import annotations

import argparse

from llm.runtime.words import counted

SHARD_TOKENS = 100_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        help="files, folders (every *.txt in them) or glob patterns ('texts/**/*.jsonl.gz'); a text file is a "
        "document, and so is each record of .jsonl, .jsonl.gz, .jsonl.zst and .parquet",
    )
    parser.add_argument("--output", required=True, help="the folder to write; --data.corpus reads it")
    parser.add_argument(
        "--tokenizer",
        default="gpt2",
        help="gpt2, word, char, bpe, an encoding of tiktoken's, a checkpoint, what `tokenizer train` wrote, or a "
        "tokenizer.json or its folder (%(default)s)",
    )
    parser.add_argument("--vocab_size", type=int, help="for bpe: how many tokens it learns (2,000 or fewer)")
    parser.add_argument(
        "--special_tokens",
        choices=("as_tokens", "as_text"),
        default="as_tokens",
        help="what a special token in a text is, such as <|endoftext|>: itself, or ordinary text (%(default)s)",
    )
    parser.add_argument("--field", default="text", help="field or column of a record that holds the text (%(default)s)")
    parser.add_argument(
        "--shard_tokens", type=int, default=SHARD_TOKENS, help="token ids per file, approximately (%(default)s)"
    )
    parser.add_argument("--threads", type=int, help="encoding threads (one per processor)")
    parser.add_argument(
        "--cache_dir", default="data/cache", help="where hashes and vocabularies of large files are kept (%(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Tokenize files into a folder of token ids; after a kill, resume where it stopped.

    Raises:
        LLMError: a file can't be read or encoded, or the folder holds something else.
    """
    import time
    from pathlib import Path

    from llm.commands.tokenizer import named_tokenizer
    from llm.config import TokenizerConfig
    from llm.data.reading.corpus import resolve_corpus
    from llm.data.tokens.opening import learn_tokenizer
    from llm.data.tokens.tokenize import Plan, tokenize
    from llm.errors import ConfigError, DataError
    from llm.runtime.files import size_text
    from llm.runtime.shell import train_command_line
    from llm.tokenizers import LEARNED

    for name in ("output", "tokenizer"):
        if not getattr(arguments, name).strip():
            raise ConfigError(f"{name} is an empty name")
    for name in ("shard_tokens", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    started = time.perf_counter()
    paths = resolve_corpus(arguments.input)
    if arguments.tokenizer not in LEARNED and Path(arguments.tokenizer).exists():
        tokenizer = named_tokenizer(arguments.tokenizer)
    else:
        config = TokenizerConfig(arguments.tokenizer, arguments.vocab_size)
        tokenizer = learn_tokenizer(config, paths, arguments.field, arguments.cache_dir)
    plan = Plan(
        paths,
        tokenizer,
        arguments.field,
        cache_dir=arguments.cache_dir,
        shard_tokens=arguments.shard_tokens,
        threads=arguments.threads,
        special_tokens=arguments.special_tokens,
    )
    try:
        store = tokenize(plan, Path(arguments.output))
    except OSError as error:
        raise DataError(
            f"can't write {arguments.output!r}: {error.strerror or error}; choose another folder, or fix that and "
            "run the same command again, which resumes after the complete files"
        ) from error
    print(
        f"{arguments.output}: {store.n_tokens:,} token ids of {counted(store.n_documents, 'document')}, "
        f"{size_text(store.n_bytes)} of text, in {counted(len(store.shards), 'file')} "
        f"({arguments.tokenizer}, {time.perf_counter() - started:.1f} s)"
    )
    print(f"train on it: {train_command_line('fit', '--data.corpus', arguments.output)}")
