"""A plan as a table."""

from __future__ import annotations

from collections.abc import Iterator

from llm.data import TextDataModule
from llm.data.modules.text import sampled_validation
from llm.preflight.plan import Plan
from llm.preflight.sizes import in_bytes, in_fraction, in_time
from llm.runs.newest import BEST, LAST, PREVIOUS
from llm.runtime.words import counted


def table(plan: Plan) -> str:
    """What is known about a run, a line each; unknown lines are omitted."""
    lines = list(_lines(plan))
    width = max(len(name) for name, _ in lines) if lines else 0
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in lines)


def _lines(plan: Plan) -> Iterator[tuple[str, str]]:
    data = plan.settings["data"]
    if (corpus := plan.corpus) is not None and plan.datamodule is not None:
        tokenizer = plan.datamodule.tokenizer
        name = tokenizer.to_dict().get("encoding", tokenizer.kind)
        files = f"{corpus.files[0]}" if len(corpus.files) == 1 else f"{len(corpus.files):,} files"
        source = f"{files}, {in_bytes(corpus.bytes)}" if corpus.files else f"{data['corpus']}, generated"
        yield "corpus", f"{source}; tokenizer {name}, {tokenizer.vocab_size:,} tokens"
        some = sampled_validation(plan.datamodule)
        of = f", in {some} spread evenly" if some else ""
        yield "tokens", f"{corpus.train:,} to train on, {corpus.validation:,} to validate on{of}"
        rows = plan.datamodule.rows_name
        if isinstance(plan.datamodule, TextDataModule):
            each = f"of {data['context_length']:,} tokens, one every {plan.datamodule.stride:,}"
        else:
            each = f"of up to {corpus.longest:,} tokens"
        batches = f"{counted(corpus.batches, 'batch', 'batches')} of {data['batch_size']:,}"
        epoch = f"an epoch is {batches}{_shared(plan)}"
        yield rows, f"{corpus.windows:,} {each}; {epoch}"
        yield from corpus.lines
        yield "steps", _steps(plan)
    if (parameters := plan.parameters) is not None:
        frozen = (
            ""
            if parameters.trained == parameters.total
            else f"; {in_fraction(parameters.trained, parameters.total)} trained"
        )
        yield "parameters", f"{parameters.total:,}, of them {parameters.embeddings:,} in embeddings and head{frozen}"
    if plan.device is not None:
        mixed = ": matrix products in bfloat16, weights in float32 (--trainer.precision 32-true for float32 throughout)"
        count = f" x {plan.world_size}" if plan.world_size > 1 else ""
        yield "device", f"{plan.device}{count}, {plan.precision}{mixed if plan.precision == 'bf16-mixed' else ''}"
    if (memory := plan.memory) is not None:
        there = "" if plan.free_memory is None else f" of {in_bytes(plan.free_memory)} free"
        each = " for each device" if plan.world_size > 1 else ""
        gradients = "the same" if memory.gradients == memory.weights else in_bytes(memory.gradients)
        what = (
            f"weights {in_bytes(memory.weights)}, gradients {gradients}, optimizer {in_bytes(memory.optimizer)}, "
            f"activations {in_bytes(memory.activations)}"
        )
        yield "memory", f"about {in_bytes(memory.to_come)}{there}{each}: {what}"
        if plan.measured is not None:
            more = f" including {in_bytes(memory.held)} that the process already holds" if memory.held else ""
            yield (
                "",
                f"{in_bytes(plan.measured)} at the peak of a few steps{more}; {in_bytes(memory.peak)} was expected",
            )
    if plan.seconds is not None:
        yield (
            "time",
            f"{in_time(plan.seconds)} of steps and validation, "
            f"{'from a few steps' if plan.measured else 'estimated; within a factor of two'}",
        )
    if plan.folder is not None:
        size, best, free = plan.checkpoint_bytes, plan.weights_bytes, plan.free_disk
        yield "run folder", f"{plan.folder}{'' if free is None else f'; {in_bytes(free)} free'}"
        if size is not None and best is not None and plan.setting("trainer.enable_checkpointing") is not False:
            weights = f"{BEST}: {in_bytes(best)}, weights alone; " if plan.validates else ""
            total = 2 * size + best * plan.validates
            each = f"{LAST}, {PREVIOUS}: {in_bytes(size)} each, to resume from"
            yield "kept", f"{weights}{each}; {in_bytes(total)} in all"


def _shared(plan: Plan) -> str:
    return f" on each of {plan.world_size} devices" if plan.world_size > 1 else ""


def _steps(plan: Plan) -> str:
    if plan.steps is None:
        return "until stopped"
    begin = f", resuming after {plan.start.step:,}" if plan.start.step else ""
    epochs = "" if plan.epochs is None else f", {plan.epochs:,.1f} epochs"
    accumulation, every, validation = plan.accumulation, plan.validates_every, "no validation"
    if isinstance(accumulation, int):
        of = f" of {accumulation} batches" if accumulation > 1 else ""
        if every is not None:
            validation = f"validation every {every / accumulation:g}"
    else:
        first, *later = sorted({0: 1, **accumulation}.items())
        of = f" of {first[1]} batches" + "".join(f", {batches} from epoch {epoch} on" for epoch, batches in later)
        if every is not None:
            validation = f"validation every {every:,} batches"
    if plan.validates and plan.validates_by_time:
        validation = f"validation every {plan.setting('trainer.val_check_interval')} (days:hours:minutes:seconds)"
    if plan.interval_before is not None:
        sooner = f"--trainer.val_check_interval {plan.interval_before}"
        validation += f", so that it takes a tenth of the time at most ({sooner} for sooner)"
    return f"{plan.steps:,}{of}{begin}: {plan.tokens:,} tokens{epochs}; {validation}"
