"""Translations after equal time: ours against a small implementation of its own around `torch.nn.Transformer`.

Both get the same pairs, split the same way, the same token ids, sizes, batch size, peak learning rate and seconds of
processor time on one thread, over which the learning rate warms up and decays to zero; each has its own network,
initial weights, batches, loop, loss and search. Ours is trained by the Trainer as `fit` does it, theirs by the loop
that a person writes: torch's modules as they come, learned positions, AdamW. Both
translate the same validation sentences greedily; BLEU, chrF and the loss in nats for each token, the end token
included, are of those.

`dates` needs no file. For Chinese to English: `--corpus cmn.txt --fields 2 1`, a file of tatoeba.org's pairs as
https://www.manythings.org/anki/ has them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench._equal_time import Budget, rate, trainer_of, validation_loss
from llm import OptimConfig, TokenizerConfig
from llm.config import TransformerConfig
from llm.data import TokenBatch, TranslationDataModule
from llm.evaluation.translation import translation_metrics
from llm.generation.translating import Translator
from llm.tasks import TranslationModel


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.translate", description=__doc__)
    parser.add_argument("--corpus", default="dates", help="a table of pairs, or dates (%(default)s)")
    parser.add_argument("--fields", nargs=2, type=int, default=None, help="the columns of source and target (1 2)")
    parser.add_argument("--seconds", type=float, default=120.0, help="of processor time, for each (%(default)s)")
    parser.add_argument("--vocab_size", type=int, default=None, help="byte pairs for each side (default: characters)")
    parser.add_argument("--layers", type=int, default=2, help="of encoder and decoder each (%(default)s)")
    parser.add_argument("--n_embd", type=int, default=64, help="(%(default)s)")
    parser.add_argument("--heads", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--dropout", type=float, default=0.0, help="(%(default)s)")
    parser.add_argument("--batch_size", type=int, default=64, help="(%(default)s)")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="the peak, of both (%(default)s)")
    parser.add_argument("--label_smoothing", type=float, default=0.0, help="(%(default)s)")
    parser.add_argument("--sentences", type=int, default=500, help="that both translate (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print a line of JSON")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    data = make_data(arguments)
    rows = [train_and_measure(name, arguments, data) for name in ("theirs", "ours")]
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            "  ".join(f"{name} {value if isinstance(value, str) else f'{value:,.4g}'}" for name, value in row.items())
        )


def make_data(arguments: argparse.Namespace) -> TranslationDataModule:
    tokenizer = TokenizerConfig("char")
    if arguments.vocab_size is not None:
        tokenizer = TokenizerConfig("bpe", vocab_size=arguments.vocab_size)
    return TranslationDataModule(
        arguments.corpus,
        arguments.fields,
        tokenizer,
        share_tokenizer=False,
        source_tokenizer=tokenizer,
        context_length=64,
        skip_longer=True,
        batch_size=arguments.batch_size,
    )


def train_and_measure(name: str, arguments: argparse.Namespace, data: TranslationDataModule) -> dict[str, Any]:
    torch.manual_seed(0)
    pairs = data.sentences("validation", arguments.sentences)
    way = ours if name == "ours" else theirs
    network, steps, translate = way(arguments, data)
    network.eval()
    loss = validation_loss(network, data)
    metrics = translation_metrics(translate([p.source for p in pairs]), [p.target for p in pairs])
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    shown = {"way": name, "parameters": n_parameters, "steps": steps, "loss": loss}
    return {**shown, **metrics}


# Ours


def ours(arguments: argparse.Namespace, data: TranslationDataModule) -> tuple[nn.Module, int, Any]:
    sizes = {"vocab_size": data.vocab_size, "source_vocab_size": data.source_vocab_size, "n_embd": arguments.n_embd}
    config = TransformerConfig(
        **sizes,
        context_length=data.context_length,
        n_layer=arguments.layers,
        n_head=arguments.heads,
        positions="rotary",
        dropout=arguments.dropout,
    )

    optim = OptimConfig(learning_rate=arguments.learning_rate)
    module = TranslationModel(config, optim=optim, label_smoothing=arguments.label_smoothing)
    trainer = trainer_of(Budget(arguments.seconds, arguments.learning_rate))
    trainer.fit(module, data)
    translator = Translator(module.translator.eval(), data.tokenizer, data.source_tokenizer)
    return module.translator, trainer.global_step, lambda texts: [found.text for found in translator.translate(texts)]


# Theirs


class TorchTransformer(nn.Module):
    """`torch.nn.Transformer`, with scaled embeddings, learned positions, and a head that shares the target's table."""

    def __init__(self, arguments: argparse.Namespace, data: TranslationDataModule) -> None:
        super().__init__()
        C, T = arguments.n_embd, data.context_length
        self.source = nn.Embedding(data.source_vocab_size, C)
        self.target = nn.Embedding(data.vocab_size, C)
        self.places = nn.ModuleList(nn.Embedding(T, C) for _ in range(2))
        self.scale = math.sqrt(C)
        for table in (self.source, self.target):
            nn.init.normal_(table.weight, std=1 / self.scale)
        self.dropout = nn.Dropout(arguments.dropout)
        layers = arguments.layers, arguments.layers
        self.transformer = nn.Transformer(
            C, arguments.heads, *layers, 4 * C, arguments.dropout, "gelu", batch_first=True, norm_first=True
        )

    def forward(self, ids: Tensor, lengths: Tensor | None, source: Tensor, source_lengths: Tensor) -> Tensor:
        """As ours: (B, T) and (B, S) -> logits (B, T, V)."""
        del lengths
        S, T = source.shape[1], ids.shape[1]
        pads = torch.arange(S) >= source_lengths[:, None]
        read = self.transformer(
            self.dropout(self.source(source) * self.scale + self.places[0](torch.arange(S))),
            self.dropout(self.target(ids) * self.scale + self.places[1](torch.arange(T))),
            tgt_mask=torch.ones(T, T, dtype=torch.bool).triu(1),
            src_key_padding_mask=pads,
            memory_key_padding_mask=pads,
            tgt_is_causal=True,
        )
        return F.linear(read, self.target.weight)


def theirs(arguments: argparse.Namespace, data: TranslationDataModule) -> tuple[nn.Module, int, Any]:
    model = TorchTransformer(arguments, data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    begin, steps = time.process_time(), 0
    for batch in endless(data):
        spent = (time.process_time() - begin) / arguments.seconds
        if spent >= 1:
            break
        optimizer.param_groups[0]["lr"] = arguments.learning_rate * rate(spent)
        logits = model(batch.inputs, None, batch.source, batch.source_lengths)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), label_smoothing=arguments.label_smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
    end_id = data.rows("validation").end_id

    def translate(texts: list[str]) -> list[str]:
        return [text for start in range(0, len(texts), 50) for text in some(texts[start : start + 50])]

    @torch.no_grad()
    def some(texts: list[str]) -> list[str]:
        rows = [torch.tensor([*data.source_tokenizer.encode(text), end_id_of_source(data)]) for text in texts]
        source = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), 1), end_id)
        while ids.shape[1] < data.context_length and not bool((ids[:, 1:] == end_id).any(1).all()):
            ids = torch.cat([ids, model(ids, None, source, lengths)[:, -1].argmax(-1, keepdim=True)], 1)
        found = (row[1:] for row in ids.tolist())
        return [data.tokenizer.decode(row[: row.index(end_id)] if end_id in row else row) for row in found]

    return model, steps, translate


def end_id_of_source(data: TranslationDataModule) -> int:
    return data.rows("validation").source_end_id


def endless(data: TranslationDataModule) -> Iterator[TokenBatch]:
    """Batches of pairs of about the same length, in another order each epoch."""
    rows, random = data.rows("train"), torch.Generator().manual_seed(0)
    while True:
        noise = torch.rand(len(rows), generator=random) * 4
        order = (torch.from_numpy(rows.lengths) + noise).argsort()
        batches = list(order.split(data.batch_size))
        for number in torch.randperm(len(batches), generator=random).tolist():
            yield rows.gather(batches[number].tolist())


if __name__ == "__main__":
    main()
