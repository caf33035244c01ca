"""Token ids in, token ids out."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from llm.config import SamplingConfig
from llm.errors import ConfigError
from llm.generation.compiled import SLOTS, CompiledStep, DecodeStep, is_worth_it
from llm.generation.prompt_lookup import PromptLookup
from llm.generation.sampling import choose
from llm.model import GPT, KeyValueCache, decode, prefill
from llm.model.eval_mode import eval_mode


def generate(
    model: GPT, prompt: Tensor, sampling: SamplingConfig | None = None, stop_id: int | None = None
) -> Iterator[int]:
    """Continue a prompt, one token at a time: the first sample of `generate_batch`, as it comes.

    Args:
        model: any GPT; only with causal attention can its text make sense.
        prompt: (T,) token ids, at least one.
        sampling: how to choose, and how many.
        stop_id: end as soon as this token comes; it is not yielded.

    Raises:
        ConfigError: the prompt is empty or holds ids outside the vocabulary, or the sampling has stop strings, which
            need a tokenizer (`stream_text`).
        GenerationError: the model's logits are NaN or infinite.
    """
    sampling = replace(sampling or SamplingConfig(), n_samples=1)
    _check_no_stop_texts(sampling)
    for step in generate_rows(model, [prompt], sampling, stop_id):
        yield from step.values()


def generate_batch(
    model: GPT, prompts: Sequence[Tensor], sampling: SamplingConfig | None = None, stop_id: int | None = None
) -> list[list[list[int]]]:
    """Continue several prompts as one batch.

    The result is what each prompt would get alone, up to rounding: rows do not see each other, and each has its own
    source of random numbers.

    Args:
        model: any GPT; only with causal attention can its text make sense.
        prompts: (T,) token ids each, of any lengths, at least one.
        sampling: how to choose, how many tokens, and how many samples of each prompt.
        stop_id: a row ends as soon as this token comes; it is not given.

    Returns:
        For each prompt, for each of its samples, the new token ids.

    Raises:
        ConfigError, GenerationError: as `generate`.
    """
    sampling = sampling or SamplingConfig()
    _check_no_stop_texts(sampling)
    n = sampling.n_samples
    rows: list[list[int]] = [[] for _ in range(len(prompts) * n)]
    for step in generate_rows(model, prompts, sampling, stop_id):
        for row, token_id in step.items():
            rows[row].append(token_id)
    return [rows[start : start + n] for start in range(0, len(rows), n)]


def _check_no_stop_texts(sampling: SamplingConfig) -> None:
    if sampling.stop:
        raise ConfigError("stop strings need a tokenizer: use stream_text or continue_texts, or stop_ids here")


@torch.no_grad()
def generate_rows(
    model: GPT,
    prompts: Sequence[Tensor],
    sampling: SamplingConfig,
    stop_id: int | None = None,
    is_ended: Callable[[int, int], bool] | None = None,
) -> Iterator[dict[int, int]]:
    """What all forms of generation share: one step after the other, each row's new token in each.

    The model sees the last `context_length` tokens. It is in eval mode while it runs, and between two steps as it was.

    Args:
        model: any GPT.
        prompts: (T,) token ids each.
        sampling: everything but the stop strings.
        stop_id: a row ends as soon as this token or one of `sampling.stop_ids` comes, which is not given.
        is_ended: called with every row and its new token; whether the row ends with it. Row `p n_samples + s` is
            sample s of prompt p.

    Yields:
        The new token of each row that goes on.
    """
    if not prompts:
        return
    for number, prompt in enumerate(prompts, start=1):
        _check_prompt(prompt, model.config.vocab_size, f"prompt {number}" if len(prompts) > 1 else "the prompt")
    n = sampling.n_samples
    reader = Reader(model, [prompt.tolist() for prompt in prompts for _ in range(n)], sampling)
    generators = [random_source(sampling.seed, prompt, sample) for prompt in prompts for sample in range(n)]
    stops = {*sampling.stop_ids} | ({stop_id} if stop_id is not None else set())
    seen = None
    if sampling.repetition_penalty != 1:
        seen = torch.zeros(len(reader.texts), model.config.vocab_size, dtype=torch.bool, device=reader.device)
        for row, text in enumerate(reader.texts):
            seen[row, text] = True
    running = list(range(len(reader.texts)))
    for _ in range(sampling.max_new_tokens):
        draws = torch.cat([torch.rand(1, generator=generator) for generator in generators])
        ids = choose(reader.logits(running), sampling, draws, seen)
        step = {row: ids[row] for row in running if ids[row] not in stops}
        for row, token_id in step.items():
            reader.texts[row].append(token_id)
            if seen is not None:
                seen[row, token_id] = True
        running = [row for row, token_id in step.items() if is_ended is None or not is_ended(row, token_id)]
        yield step
        if not running:
            return


@torch.no_grad()
def log_probabilities(model: GPT, ids: Tensor) -> Tensor:
    """How likely the model finds each token of a text after those before it.

    A text longer than the context is read in windows that overlap by half, so that no token beyond the first window
    is scored after fewer than half a context of others.

    Args:
        model: any GPT.
        ids: (T,) token ids, at least one.

    Returns:
        (T - 1) log-probabilities in nats, of all tokens but the first, on the CPU.

    Raises:
        ConfigError: the text is empty or holds ids outside the vocabulary.
    """
    _check_prompt(ids, model.config.vocab_size, "the text")
    length, device = model.config.context_length, model.head.weight.device
    found = torch.empty(len(ids) - 1)
    known = 0
    with _inference(model):
        while known < len(found):
            start = max(0, known - length // 2)
            window = ids[start : start + length + 1].to(device)  # its last token is only scored, not read
            logits = model.forward(window[None, :-1])[0].float()  # (T) -> (1, T, V) -> (T, V)
            scored = torch.log_softmax(logits, dim=-1).gather(1, window[1:, None])[:, 0]  # (T, V) -> (T)
            found[known : start + len(scored)] = scored[known - start :].cpu()
            known = start + len(scored)
    return found


def random_source(seed: int, prompt: Tensor, sample: int) -> torch.Generator:
    """The random numbers of one row: the same whichever rows are beside it, others for each prompt and sample."""
    digest = hashlib.sha256(f"{seed} {sample} {prompt.tolist()}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


class Reader:
    """Gives the logits of the next token of each text, as long as texts only grow at their ends.

    While all texts fit into the context, a step reads one token a row, from the cache, and of a text that is alone a
    guess of what follows, so that the next steps may have nothing to read. Beyond that, the window of the
    last `context_length` tokens moves, and with it the position of every token in it: keys and values, which were
    computed from the old positions and from tokens that are no longer seen, say nothing about the new window. So that
    the logits stay exactly those of the window, each step then reads the whole window again.

    Args:
        model: any GPT; without causal attention there is no cache, and each step reads all.
        texts: token ids of each row; the caller appends to them.
        sampling: how many tokens will come, and whether the decoding step is compiled.
    """

    def __init__(self, model: GPT, texts: list[list[int]], sampling: SamplingConfig) -> None:
        self.model = model
        self.texts = texts
        self.device = model.head.weight.device
        self._context_length = model.config.context_length
        self._cache: KeyValueCache | None = None
        self._is_filled = False
        self._decode: DecodeStep = decode
        n_guesses = sampling.prompt_lookup if len(texts) == 1 else 0
        self._prompt_lookup = PromptLookup(n_guesses) if n_guesses else None
        if model.config.is_causal:
            n_slots = max(map(len, texts)) + sampling.max_new_tokens
            if is_worth_it(model, sampling):
                self._decode = CompiledStep(model, 1 + n_guesses if n_guesses else len(texts))
                n_slots = -(-n_slots // SLOTS) * SLOTS
            self._cache = KeyValueCache(model, len(texts), min(n_slots, self._context_length))

    def logits(self, running: Sequence[int]) -> Tensor:
        """(B, V) the logits after the last token of each text; those of rows that are not running mean nothing."""
        with _inference(self.model):
            if self._cache is None:
                windows = [text[-self._context_length :] for text in self.texts]
                return torch.stack([self._plain_logits(window) for window in windows])
            fits = all(len(self.texts[row]) <= self._context_length for row in running)
            if self._is_filled and fits:
                if self._prompt_lookup is not None:
                    return self._decode_guess(self.texts[0], self._cache, self._prompt_lookup)
                ids = self._tensor([text[-1] for text in self.texts])
                positions = self._tensor([min(len(text), self._context_length) - 1 for text in self.texts])
                return self._decode(self.model, self._cache, ids[:, None], positions[:, None])[:, 0]  # (B, 1, V)
            self._is_filled = True
            windows = [text[-self._context_length :] for text in self.texts]
            ids = pad_sequence([torch.tensor(window) for window in windows], batch_first=True).to(self.device)  # (B, T)
            return prefill(self.model, self._cache, ids, self._tensor(list(map(len, windows))))

    def _decode_guess(self, text: list[int], cache: KeyValueCache, prompt_lookup: PromptLookup) -> Tensor:
        if (logits := prompt_lookup.logits(text)) is not None:
            return logits[None]  # (V) -> (1, V)
        has_room = len(text) + prompt_lookup.n_guesses <= cache.n_slots
        guess = prompt_lookup.guess(text) if has_room else []
        ids = self._tensor([text[-1], *guess])[None]  # (1, 1 + guessed)
        positions = torch.arange(len(text) - 1, len(text) + len(guess), device=self.device)[None]
        logits = self._decode(self.model, cache, ids, positions)[0]  # (1, T, V) -> (T, V)
        prompt_lookup.keep(text, guess, logits)
        return logits[:1]

    def _plain_logits(self, window: list[int]) -> Tensor:
        ids = self._tensor(window)[None]  # (T) -> (1, T)
        return self.model.forward(ids)[0, -1]  # not __call__: a compiled model would be compiled for each length

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self.device)


@contextlib.contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Eval mode and the precision of the weights, for the length of one step."""
    mode = eval_mode(model) if model.training else contextlib.nullcontext()
    with mode, torch.autocast(next(model.parameters()).device.type, enabled=False):
        yield


def _check_prompt(prompt: Tensor, vocab_size: int, name: str) -> None:
    if prompt.ndim != 1 or len(prompt) == 0:
        raise ConfigError(f"{name} must be at least one token, in one dimension; got shape {tuple(prompt.shape)}")
    if not 0 <= int(prompt.min()) <= int(prompt.max()) < vocab_size:
        raise ConfigError(f"{name} holds token ids outside the model's vocabulary of {vocab_size}")
