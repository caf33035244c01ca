"""The architecture of an encoder and a decoder that attends to it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from llm.config.checks import checks
from llm.config.encoder import EncoderConfig
from llm.config.gpt import GPTConfig


@dataclass(frozen=True)
class TransformerConfig(GPTConfig):
    """The architecture of a Transformer that translates (Vaswani et al. 2017): the settings of a GPT are those of its
    decoder, and of its encoder, which differs in seeing the whole source.

    Args:
        vocab_size: V, the number of token ids of the target. On the command line it comes from the tokenizer.
        context_length: T, the most tokens of a target, and of a source. On the command line it comes from
            `data.context_length`.
        n_layer: number of blocks of the decoder.
        source_vocab_size: number of token ids of the source. On the command line it comes from the tokenizer.
        n_encoder_layer: number of blocks of the encoder. Default: n_layer.
        scale_embeddings: whether token embeddings are multiplied by the square root of C, as there (section 3.4).
        share_embeddings: whether source and target have one table of token embeddings (ibid.); they need the same
            tokenizer then.
    """

    scale_embeddings: bool = True
    source_vocab_size: int = 50257
    n_encoder_layer: int | None = None
    share_embeddings: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        with checks(self) as check:
            for name, value in (
                ("source_vocab_size", self.source_vocab_size),
                ("n_encoder_layer", self.encoder_layers),
            ):
                check(1 <= value < 2**31, f"{name} must be from 1 to 2**31 - 1, got {value}")
            for name in ("parallel_residual", "sandwich_norm"):
                check(not getattr(self, name), f"{name} is for blocks without attention to a source, got true")
            check(self.is_causal, "a decoder must not see the tokens it is to predict: causal must be true, got false")
            check(
                not self.share_embeddings or self.source_vocab_size == self.vocab_size,
                f"share_embeddings needs one vocabulary for source and target, got {self.source_vocab_size:,} and "
                f"{self.vocab_size:,} tokens",
            )

    @property
    def encoder_layers(self) -> int:
        """Number of blocks of the encoder."""
        return self.n_layer if self.n_encoder_layer is None else self.n_encoder_layer

    @property
    def encoder(self) -> EncoderConfig:
        """The architecture of the encoder."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(GPTConfig)}
        attention = "self" if self.attention == "causal" else self.attention
        own = {
            "vocab_size": self.source_vocab_size,
            "n_layer": self.encoder_layers,
            "attention": attention,
            "causal": False,
            "sliding_window": None,
            "full_attention_layers": (),
        }
        return EncoderConfig(**{**settings, **own})
