"""`python -m llm export`."""

from __future__ import annotations

import argparse

_WORD2VEC = {"word2vec": False, "word2vec-binary": True}
"""Whether a format is the binary one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--ckpt", required=True, help="the checkpoint, best, last, or anything that import reads")
    parser.add_argument("--out", required=True, help="the folder (hf, peft) or file (the others) to write")
    parser.add_argument(
        "--format",
        choices=("hf", "safetensors", "gguf", "peft", *_WORD2VEC),
        default="hf",
        help="hf: a folder that transformers opens; safetensors: one file to share, which import reads; gguf: one file "
        "for llama.cpp; in all three, adapters (LoRA) are merged; peft: a folder of the adapters alone, which peft "
        "opens; word2vec and word2vec-binary: the vectors of words, which gensim opens (%(default)s)",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16", "q8_0"), help="of the matrices in a gguf (as they are)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")


def run(arguments: argparse.Namespace) -> None:
    """Write the folder or file and say what a user should know.

    Raises:
        LLMError: the checkpoint can't be read, the format has no place for it, or the target is there already.
    """
    from llm.commands.targets import refuse_source
    from llm.config.tasks import MASKED, NEXT_TOKEN_TASKS, WORD_VECTORS
    from llm.errors import ConfigError, OtherTaskError
    from llm.pretrained import export, export_adapters, read_pretrained

    refuse_source(arguments.ckpt, arguments.out)
    if arguments.dtype is not None and arguments.format != "gguf":
        raise ConfigError(f"--dtype {arguments.dtype} is for --format gguf, got --format {arguments.format}")
    if arguments.format in _WORD2VEC:
        from llm.pretrained.vectors import read_vectors, write_word2vec

        binary = _WORD2VEC[arguments.format]
        write_word2vec(read_vectors(arguments.ckpt), arguments.out, binary, arguments.overwrite)
        print(f"written to {arguments.out}")
        return
    if arguments.format == "peft":
        notes = export_adapters(arguments.ckpt, arguments.out, arguments.overwrite)
    else:
        tasks = (*NEXT_TOKEN_TASKS, MASKED)
        try:
            found = read_pretrained(arguments.ckpt, tasks=tasks)
        except OtherTaskError as error:
            vectors = "; --format word2vec writes its vectors" if error.task == WORD_VECTORS else ""
            raise ConfigError(
                f"{arguments.ckpt!r} is of the task {error.task!r}, and --format {arguments.format} has a place for "
                f"{', '.join(tasks)}: share the .ckpt itself, which holds all that is needed{vectors}"
            ) from error
        why = found.notes if found.tokenizer is None else ()
        notes = [*why, *export(found, arguments.out, arguments.format, arguments.overwrite, arguments.dtype)]
    for note in notes:
        print(f"note: {note}")
    print(f"written to {arguments.out}")
