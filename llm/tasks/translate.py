"""Translation: the task of an encoder and a decoder that attends to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, cast

from torch import Tensor

from llm.config import LoRAConfig, OptimConfig, RNNConfig, TransformerConfig
from llm.config.tasks import TRANSLATE
from llm.data.batch import TokenBatch
from llm.errors import CheckpointError, ConfigError
from llm.evaluation.translation import Tokenization, translation_metrics
from llm.generation.searching import LENGTH_PENALTY, MOST_HYPOTHESES
from llm.generation.translating import Translator
from llm.model import EncoderDecoder, build_network
from llm.pretrained.checkpoint import ENTRY, SOURCE_TOKENIZER
from llm.runs.checkpointing import best_validation
from llm.runs.processes import is_sharded
from llm.runs.results import write_results
from llm.runs.resuming import SETTINGS, refuse_other_tokenizer
from llm.tasks.base import TaskModule
from llm.training.loss import Prediction, head_loss

log = logging.getLogger("llm")

_TRANSFORMER = TransformerConfig()
_RNN = RNNConfig()
_OPTIM = OptimConfig()
_LORA = LoRAConfig()


class TranslationModel(TaskModule):
    """Trains an encoder and a decoder to translate (Vaswani et al. 2017; Bahdanau et al. 2014).

    Validation measures loss and token accuracy of all pairs, and translates some of them, for BLEU and chrF against
    their references; test translates all.

    Args:
        transformer: the architecture, where `kind` is `transformer`.
        kind: which network: a `transformer`, or an `rnn`.
        rnn: the architecture, where `kind` is `rnn`.
        optim: optimizer and learning rate.
        label_smoothing: how much of each target's probability all tokens share alike while training (Szegedy et al.
            2015); 0 for none. The training loss is the smoothed one.
        beam: hypotheses that a search keeps when it translates; 1 is greedy.
        length_penalty: how far longer hypotheses are favoured in a beam (Wu et al. 2016, eq. 14); 0 for not at all.
        sentences: how many pairs, spaced evenly over the split, each validation translates; 0 for none.
        tokenization: of BLEU, one of sacreBLEU's. Default: `zh` for Chinese references, else `13a`.
        translations: where `test` writes its translations beside the references, as JSON lines. Default: a file
            `translations.jsonl` in the folder of the run.
        compile: fuse what comes before the head, and the loss, with torch.compile: up to a minute to begin with, then
            faster steps. Where that can't be done, a line says why, and the run continues without.
        non_finite: what to do at a step whose loss or gradient is NaN or infinite: `stop` the run before the weights
            become NaN, or `skip` the step and count it. Either way the batch is written to the
            folder `non_finite` of the run.
        train: which parameters are trained: `all`, `head`, `last_block` (with the norm and the head that follow it,
            unless that head shares the token embedding), `lora`, or patterns of parameter names such as `blocks.3.*`;
            several add up. Default: `lora` where `lora.rank` is above 0, else `all`.
        lora: low-rank adapters beside frozen weights.

    Raises:
        ConfigError: a setting is invalid.
    """

    task = TRANSLATE
    network_config = TransformerConfig
    architectures: ClassVar[Mapping[str, type]] = MappingProxyType({"transformer": TransformerConfig, "rnn": RNNConfig})

    def __init__(
        self,
        transformer: TransformerConfig = _TRANSFORMER,
        kind: Literal["transformer", "rnn"] = "transformer",
        rnn: RNNConfig = _RNN,
        optim: OptimConfig = _OPTIM,
        label_smoothing: float = 0.0,
        beam: int = 1,
        length_penalty: float = LENGTH_PENALTY,
        sentences: int = 100,
        tokenization: Tokenization | None = None,
        translations: str | None = None,
        compile: bool = False,
        non_finite: Literal["stop", "skip"] = "stop",
        train: list[str] | str | None = None,
        lora: LoRAConfig = _LORA,
    ) -> None:
        problems = [
            message
            for is_right, message in (
                (0 <= label_smoothing < 1, f"label_smoothing must be in [0, 1), got {label_smoothing}"),
                (1 <= beam <= MOST_HYPOTHESES, f"beam must be at least 1 and at most {MOST_HYPOTHESES:,}, got {beam}"),
                (length_penalty >= 0, f"length_penalty must be at least 0, got {length_penalty}"),
                (sentences >= 0, f"sentences must be at least 0, got {sentences}"),
            )
            if not is_right
        ]
        if problems:
            raise ConfigError(*problems)
        network = build_network(rnn if kind == "rnn" else transformer)
        super().__init__(network, optim, compile, non_finite, train, lora)
        self.label_smoothing = label_smoothing
        self.beam = beam
        self.length_penalty = length_penalty
        self.sentences = sentences
        self.tokenization = tokenization
        self.translations = translations

    @property
    def translator(self) -> EncoderDecoder:
        """The network."""
        return cast(EncoderDecoder, self.network)

    @property
    def source_tokenizer(self) -> Any:
        """The data module's tokenizer of sources, or None where the run has no data module of ours."""
        return getattr(getattr(self._trainer, "datamodule", None), "source_tokenizer", None)

    def forward(
        self, ids: Tensor, lengths: Tensor | None = None, source: Tensor | None = None, source_lengths: Any = None
    ) -> Tensor:
        """The begin token and the target `(B, T)`, and its source `(B, S)` -> logits `(B, T, V)`."""
        return self.translator(ids, lengths, source, source_lengths)

    def hidden_states(self, batch: TokenBatch) -> Tensor:
        """What the head reads: `(B, T, C)`."""
        return self.translator.hidden_states(batch.inputs, batch.lengths, batch.source, batch.source_lengths)

    def loss_of(
        self, hidden_states: Tensor, batch: TokenBatch, with_accuracy: bool = False, scale: float = 1.0
    ) -> Prediction:
        """The summed cross-entropy of a batch, times `scale`; with smoothed labels while training."""
        head, transform = self.network.output_layer, self.network.before_output
        smoothing = self.label_smoothing if self.training else 0.0
        return head_loss(
            head, hidden_states, batch.targets, with_accuracy, scale, self.cross_entropy, transform, smoothing
        )

    # Translations

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all validation pairs, and those of the translations of some."""
        super().on_validation_epoch_end()
        if self.sentences and not self.trainer.sanity_checking and not is_sharded(self.trainer.strategy):
            self._log_translations("validation", self.sentences)

    def on_fit_end(self) -> None:
        """Say how good the translations of the best validation were."""
        datamodule = getattr(self.trainer, "datamodule", None)
        where, measured = best_validation(self.trainer)
        n = measured.get("validation/translations")
        if n is None or getattr(datamodule, "overfits", False) or not self.trainer.is_global_zero:
            return
        bleu, value = next(item for item in measured.items() if item[0].startswith("validation/bleu_"))
        log.info(
            "exact:       %d of %d translations; BLEU (%s) %.1f, chrF %.1f (%s)",
            *(round(n * measured["validation/exact"]), n, bleu.removeprefix("validation/bleu_"), value),
            *(measured["validation/chrf"], where),
        )

    def on_test_epoch_end(self) -> None:
        """Log the metrics over all test pairs, and those of the translations of all; write these.

        Raises:
            ConfigError: no process has the whole network.
        """
        super().on_test_epoch_end()
        if is_sharded(self.trainer.strategy):
            raise ConfigError("no process translates with strategy fsdp, which shards the weights: test on one device")
        self._log_translations("test", None)

    def _log_translations(self, split: str, most: int | None) -> None:
        """Every process translates the same sentences, so that all have the same values."""
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(datamodule, "sentences"):
            return
        pairs = datamodule.pairs(split) if most is None else datamodule.sentences(split, most)
        if not pairs:
            return
        translator = Translator(self.translator, self.tokenizer, self.source_tokenizer)
        found = translator.translate([pair.source for pair in pairs], self.beam, self.length_penalty)
        texts, references = [translation.text for translation in found], [pair.target for pair in pairs]
        metrics = translation_metrics(texts, references, self.tokenization)
        self.log_values({f"{split}/{name}": value for name, value in metrics.items()})
        self.measured[f"{split}/translations"] = len(pairs)
        if split == "test":
            records = [
                {"source": pair.source, "reference": pair.target, **translation.to_dict()}
                for pair, translation in zip(pairs, found, strict=True)
            ]
            write_results(self.trainer, "translations", records, self.translations, "model.translations")

    # Checkpoints

    @classmethod
    def of_architecture(cls, name: str, settings: dict[str, Any]) -> Self:
        """A module with a new network of this architecture; raises what its configuration raises."""
        kinds = {config.__name__: kind for kind, config in cls.architectures.items()}
        if name not in kinds:
            raise CheckpointError(f"there is no architecture {name[:80]!r}; there is {', '.join(kinds)}")
        kind = kinds[name]
        return cls(**{"kind": kind, kind: cls.architectures[kind](**settings)})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As for every task, and the tokenizer of the sources."""
        super().on_save_checkpoint(checkpoint)
        tokenizer = self.source_tokenizer
        checkpoint[ENTRY][SETTINGS]["label_smoothing"] = self.label_smoothing
        checkpoint[ENTRY][SOURCE_TOKENIZER] = None if tokenizer is None else tokenizer.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As for every task, and make sure that the sources are read by the same tokenizer.

        Raises:
            CheckpointError: they are not.
        """
        super().on_load_checkpoint(checkpoint)
        refuse_other_tokenizer(checkpoint, self.source_tokenizer, SOURCE_TOKENIZER, "source_vocab_size")
        before = checkpoint[ENTRY].get(SETTINGS, {}).get("label_smoothing", self.label_smoothing)
        if before != self.label_smoothing and self._trainer is not None and self._trainer.state.fn == "fit":
            log.warning(
                "from here on, this will not be the run that it would have been: label_smoothing was %s, it is %s",
                *(before, self.label_smoothing),
            )
