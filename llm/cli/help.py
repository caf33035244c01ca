"""What `train.py --help` says, without importing anything large; and how each command's own help begins."""

from llm.config.tasks import LANGUAGE
from llm.runtime.shipped import train_command
from llm.tasks import TASKS

SUMMARIES = {
    "fit": "train a model",
    "validate": "evaluate a trained model on the validation data",
    "test": "evaluate a trained model on test data",
    "predict": "apply a trained model to new inputs, such as prompts to continue",
}
"""The commands of `train.py`."""

_EXAMPLES = {
    "fit": (
        ("", "the quick start: a small GPT on a short story"),
        ("--data.corpus my.txt --trainer.max_steps 2000", "on your own text"),
        ("--config configs/char.yaml --preflight", "check a run without starting it"),
        ("--task masked", "another task: masked words"),
    ),
    "validate": (("--ckpt_path best", "the best checkpoint of the newest run"),),
    "test": (("--ckpt_path best --data.test_corpus other.txt", "on another text"),),
    "predict": (("--ckpt_path best --data.prompts prompts.txt", "continue each line of a file"),),
}

_MOST_USED = {
    "--config FILE": "take settings from a YAML file; flags win over it",
    "--data.corpus": "training text: a file, a folder, a glob pattern, or token ids",
    "--data.tokenizer.kind": "gpt2, bpe, word, char",
    "--data.context_length": "T: the most tokens that the model sees at once",
    "--data.batch_size": "B: windows in a batch; fewer need less memory",
    "--model.gpt.n_layer": "number of blocks; n_head: attention heads, n_embd: embedding size",
    "--model.optim.learning_rate": "the peak learning rate",
    "--trainer.max_steps": "length of training in optimizer steps",
    "--trainer.val_check_interval": "training batches between validations",
    "--ckpt_path last": "resume the newest run, or a checkpoint by its path",
    "--preflight": "check the run without starting it: plan, memory, time, problems",
}


def overview() -> str:
    """What `train.py --help` prints."""
    commands = _columns({f"  {name}": summary for name, summary in SUMMARIES.items()})
    tasks = _columns({f"  {word}": task.summary for word, task in TASKS.items()})
    return (
        f"usage: {train_command()} COMMAND [options]\n\n"
        f"Train a GPT, or the network of another task, and see inside it while it learns.\n\ncommands:\n{commands}\n\n"
        f"tasks (--task WORD, or task: WORD in a YAML file; default: {LANGUAGE}):\n{tasks}\n\n{_used_most()}\n\n"
        f"{_examples('fit')}\n\n"
        f"Every option of a command: {train_command()} COMMAND [--task WORD] --help\n"
        "To generate, evaluate, inspect, convert and tokenize: python -m llm --help"
    )


def description(command: str, task: str = LANGUAGE) -> str:
    """How the help of a command begins: what it does, examples, the options that are used most."""
    if task != LANGUAGE:
        return f"{SUMMARIES[command].capitalize()}.\n\ntask {task}: {TASKS[task].summary}"
    parts = [f"{SUMMARIES[command].capitalize()}.", _examples(command)]
    if command == "fit":
        parts.append(_used_most())
    return "\n\n".join(parts)


def _used_most() -> str:
    options = _columns({f"  {name}": what for name, what in _MOST_USED.items()})
    return f"most used options of fit, for the task {LANGUAGE}:\n{options}"


def _examples(command: str) -> str:
    lines = {f"  {train_command()} {command} {words}".rstrip(): f"# {what}" for words, what in _EXAMPLES[command]}
    return "examples:\n" + _columns(lines)


def _columns(lines: dict[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join(f"{left.ljust(width)}  {right}" for left, right in lines.items())
