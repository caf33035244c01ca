"""What others have for the same work: `transformers`, `litgpt`, and the package of the book LLMs from scratch.

Each function trains for ever, or writes texts for ever. This file imports nothing of ours, because litgpt's interpreter
runs it, too; as a program, `python -m bench._rivals SETTINGS`, it is litgpt writing texts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

Size = dict[str, int]

FOREVER = 10**9


def add_litgpt_python(parser: argparse.ArgumentParser) -> None:
    """The option that says where litgpt is."""
    parser.add_argument(
        "--litgpt_python",
        metavar="PATH",
        default=os.environ.get("LITGPT_PYTHON"),
        help="the interpreter of an environment with litgpt; bench/README.md says how to make one ($LITGPT_PYTHON)",
    )


def transformers(size: Size, ids: Any, bf16: bool, folder: Path) -> None:
    """`transformers.Trainer` with its GPT-2."""
    import torch
    import transformers

    config = transformers.GPT2Config(
        vocab_size=size["V"],
        n_positions=size["T"],
        n_embd=size["C"],
        n_layer=size["L"],
        n_head=size["H"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    # Their loss shifts the labels itself, so that all T + 1 tokens would be read: one fewer, for equal work.
    rows = [{"input_ids": row[:-1], "labels": row[:-1]} for row in ids]
    settings = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=size["B"],
        max_steps=FOREVER,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        bf16=bf16,
        learning_rate=1e-3,
        disable_tqdm=True,
    )
    transformers.Trainer(transformers.GPT2LMHeadModel(config), settings, train_dataset=rows).train()


def litgpt(size: Size, ids: Any, precision: str, folder: Path) -> None:
    """What `litgpt pretrain` runs: Fabric, compiled, AdamW (fused on a GPU), the loss in chunks, TensorBoard.

    The tokens come from memory instead of files, since its own data modules need litdata; head and embedding are tied,
    the vocabulary is not padded, and it logs every ten steps, as the others do.
    """
    import torch
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.data import DataModule
    from litgpt.pretrain import setup
    from torch.utils.data import DataLoader

    class Tokens(DataModule):
        """The same random tokens that all train on."""

        def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
            """Batches `(B, T + 1)`."""
            del tokenizer, max_seq_length
            self.batch_size = batch_size

        def train_dataloader(self) -> DataLoader[torch.Tensor]:
            """Shuffled."""
            return DataLoader(ids, self.batch_size, shuffle=True)

        def val_dataloader(self) -> DataLoader[torch.Tensor]:
            """A look at the beginning, before anything is timed."""
            return DataLoader(ids, self.batch_size)

    setup(
        model_name="gpt2-like",
        model_config=litgpt_config(size),
        out_dir=folder / "litgpt",
        precision=precision,
        data=Tokens(),
        train=TrainArgs(
            global_batch_size=size["B"],
            micro_batch_size=size["B"],
            max_tokens=FOREVER * size["B"] * size["T"],
            max_norm=1.0,
            lr_warmup_steps=100,
            log_interval=10,
            save_interval=FOREVER,
            tie_embeddings=True,
        ),
        eval=EvalArgs(interval=FOREVER, max_iters=1),
        devices=1,
    )


def litgpt_config(size: Size) -> Any:
    """The shape of GPT-2 as far as litgpt has it: its positions are rotary, over a quarter of a head."""
    from litgpt.config import Config

    return Config(
        name="gpt2-like",
        block_size=size["T"],
        vocab_size=size["V"],
        padded_vocab_size=size["V"],
        n_layer=size["L"],
        n_head=size["H"],
        n_embd=size["C"],
        intermediate_size=4 * size["C"],
        parallel_residual=False,
        bias=True,
        attn_bias=True,
        gelu_approximate="tanh",
    )


def book(size: Size, ids: Any) -> None:
    """The book's `GPTModel` in its `train_model_simple`, with its AdamW; head and embedding tied, as GPT-2's are."""
    import torch
    from llms_from_scratch.ch05 import train_model_simple
    from torch.utils.data import DataLoader, RandomSampler, TensorDataset

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = book_model(size).to(device)
    model.out_head.weight = model.tok_emb.weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.1)
    pairs = TensorDataset(ids[:, :-1], ids[:, 1:])  # (N, T + 1) -> (N, T), (N, T)
    one_epoch = RandomSampler(pairs, replacement=True, num_samples=FOREVER)  # it writes a text after each
    train_model_simple(
        model,
        DataLoader(pairs, size["B"], sampler=one_epoch),
        DataLoader(pairs, size["B"]),
        optimizer,
        device,
        num_epochs=1,
        eval_freq=FOREVER,
        eval_iter=1,
        start_context="",
        tokenizer=None,
    )


def book_model(size: Size) -> Any:
    """The book's model, with biases for queries, keys and values, as GPT-2 has them."""
    from llms_from_scratch.ch04 import GPTModel

    return GPTModel(
        {
            "vocab_size": size["V"],
            "context_length": size["T"],
            "emb_dim": size["C"],
            "n_heads": size["H"],
            "n_layers": size["L"],
            "drop_rate": 0.0,
            "qkv_bias": True,
        }
    )


def litgpt_texts(size: Size, precision: str, prompt_tokens: int, tokens: int, threads: int) -> None:
    """What `litgpt generate` runs, greedy: says how many seconds a text took, waits for a word, writes the next."""
    import torch
    from litgpt.generate.base import generate
    from litgpt.model import GPT

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, precision))
    model = GPT(litgpt_config(size)).eval()
    model.lm_head.weight = model.transformer.wte.weight
    model.max_seq_length = prompt_tokens + tokens
    model.set_kv_cache(batch_size=1)
    while True:
        prompt = torch.randint(size["V"], (prompt_tokens,))
        start = time.perf_counter()
        text = generate(model, prompt, prompt_tokens + tokens, temperature=0.0)
        seconds = time.perf_counter() - start
        assert len(text) == prompt_tokens + tokens
        print(json.dumps({"seconds": seconds}), flush=True)
        if not sys.stdin.readline():
            return
        for block in model.transformer.h:
            block.attn.kv_cache.reset_parameters()


if __name__ == "__main__":
    litgpt_texts(**json.loads(sys.argv[1]))
