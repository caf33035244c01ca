"""`python -m llm import`."""

from __future__ import annotations

import argparse

from llm.runtime.words import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        help="a Hugging Face folder or file (GPT-2, Llama, Mistral, Qwen, BERT), nanoGPT's or minGPT's checkpoint, a "
        "state dict of the book LLMs-from-scratch, a name on the Hugging Face hub, such as gpt2 or owner/name; or a "
        "folder of adapters (LoRA) that peft wrote",
    )
    parser.add_argument(
        "--base", help="what adapters were trained on, if --from is a folder of peft (as that names it)"
    )
    parser.add_argument("--out", required=True, help="the checkpoint to write, such as gpt2.ckpt")
    parser.add_argument(
        "--tokenizer",
        help="the tokenizer of the weights, where it is not beside them: meta.pkl, vocab.txt, chars.txt, "
        "tokenizer.json, a folder with one, a checkpoint, or gpt2",
    )
    parser.add_argument("--context_length", type=int, help="keep this many of the first positions only (all)")
    parser.add_argument("--vocab_multiple", type=int, help="pad the vocabulary to a multiple, for speed (as it is)")
    parser.add_argument("--n_head", type=int, help="number of attention heads, for files that don't state it")
    parser.add_argument(
        "--activation", help="of the MLP, for files that don't state it: gelu, gelu_exact, relu or silu"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")


def run(arguments: argparse.Namespace) -> None:
    """Write a checkpoint and say what is in it.

    Raises:
        LLMError: the source can't be read, an option is not for it, or the target is there already.
    """
    import dataclasses
    from pathlib import Path

    from llm.commands.targets import refuse_source
    from llm.commands.tokenizer import named_tokenizer
    from llm.config.tasks import MASKED, NEXT_TOKEN_TASKS
    from llm.pretrained import adapt, import_adapters, is_peft, read_pretrained, refuse_existing
    from llm.pretrained.checkpoint import checkpoint_of, write_checkpoint
    from llm.pretrained.layout import head_name

    refuse_source(arguments.source, arguments.out)
    refuse_existing(Path(arguments.out), arguments.overwrite)
    are_adapters = is_peft(arguments.source)
    _refuse_options(arguments, are_adapters)
    if are_adapters:
        write_checkpoint(import_adapters(arguments.source, arguments.base), arguments.out)
        print(f"written to {arguments.out}")
        return
    told = {"n_head": arguments.n_head, "activation": arguments.activation}
    tokenizer = None if arguments.tokenizer is None else named_tokenizer(arguments.tokenizer)
    tasks = (*NEXT_TOKEN_TASKS, MASKED)
    found = read_pretrained(arguments.source, told, tasks=tasks, tokenizer=tokenizer)
    wanted = {"context_length": arguments.context_length, "vocab_multiple": arguments.vocab_multiple}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    found = adapt(found, dataclasses.replace(found.config, **wanted))
    state = found.config, found.weights, found.tokenizer
    write_checkpoint(checkpoint_of(*state, found.template, found.task, found.model_type), arguments.out)

    config = found.config
    shared = head_name(config) if config.tie_head else ""
    count = sum(tensor.numel() for name, tensor in found.weights.items() if name != shared)
    sizes = f"{counted(config.n_layer, 'layer')}, {counted(config.n_head, 'head')}, C = {config.n_embd}"
    print(f"{found.format}: {count:,} parameters, {sizes}")
    print(f"vocabulary {config.vocab_size:,}, context {config.context_length:,}, tokenizer {found.tokenizer or 'none'}")
    for note in found.notes:
        print(f"note: {note}")
    print(f"written to {arguments.out}")


def _refuse_options(arguments: argparse.Namespace, are_adapters: bool) -> None:
    """Hold the options to what the source is.

    Raises:
        ConfigError: one would change nothing.
    """
    from llm.errors import ConfigError

    if not are_adapters and arguments.base is not None:
        raise ConfigError(
            f"--base is for adapters that peft wrote, and {arguments.source!r} is no folder with an "
            "adapter_config.json: leave it out, or give that folder with --from"
        )
    names = "tokenizer", "context_length", "vocab_multiple", "n_head", "activation"
    if are_adapters and (given := [f"--{name}" for name in names if getattr(arguments, name) is not None]):
        raise ConfigError(
            f"{', '.join(given)} can't be given with adapters, which have all that from their base: import that first, "
            "with these options, and give it with --base"
        )
