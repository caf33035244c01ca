"""What is said before the first step, and that all that is wrong is said at once."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llm import GPT, EncoderConfig, GPTConfig
from llm.cli.main import main
from llm.config import RNNConfig, TransformerConfig, WordVectorsConfig
from llm.config.tasks import LANGUAGE
from llm.data.modules import text as of_data
from llm.model import Encoder, build_network
from llm.preflight import can_be_planned
from llm.preflight.costs import step_costs
from llm.preflight.words import word_costs
from llm.pretrained import Pretrained, export
from llm.pretrained.checkpoint import read_checkpoint
from llm.runtime.counting import count_costs
from llm.tasks import TASKS

REPOSITORY = Path(__file__).parents[2]
TINY = ["--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--data.context_length=16"]
QUICK = [*TINY, "--data.tokenizer.kind=char", "--data.batch_size=2", "--trainer.max_steps=3"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def fit(capsys):
    """Runs `fit`, and gives the exit status and the lines that were printed."""

    def run(*words: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        status = main(["fit", *words], default_config=REPOSITORY / "configs" / "default.yaml")
        return status, capsys.readouterr().err.splitlines()

    return run


def errors(lines):
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


def hints(lines):
    return [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]


def test_a_preflight_alone_says_what_the_run_will_be_and_leaves_nothing(fit):
    status, lines = fit("--preflight", *QUICK)
    assert status == 0
    assert not Path("runs").exists()
    table = {line[:12].strip(): line[12:] for line in lines if line[10:12] == "  "}
    assert "tokenizer char" in table["corpus"]
    assert "18,773 to train on, 2,086 to validate on" in table["tokens"]
    assert "an epoch is 586 batches of 2" in table["windows"]  # (18,773 - 16) / 16 windows
    assert table["steps"].startswith("3: 96 tokens, 0.0 epochs")
    assert "estimated" not in table["time"]
    assert "runs/gpt/version_0" in table["run folder"]
    assert re.fullmatch(
        r"best\.ckpt: [\d.]+ .B, weights alone; "
        r"last\.ckpt, previous\.ckpt: [\d.]+ .B each, to resume from; [\d.]+ .B in all",
        table["kept"].strip(),
    )
    assert len(table) <= 12


def test_the_word_true_may_be_given(fit):
    assert fit(*QUICK, "--preflight", "true")[0] == 0
    assert fit(*QUICK, "--preflight=false", "--trainer.max_steps=1")[0] == 0
    assert Path("runs").exists()


def test_all_problems_are_said_at_once(fit):
    status, lines = fit(
        *QUICK,
        "--preflight",
        "--model.gpt.n_head=3",
        "--model.gpt.dropout=2",
        "--model.optim.learning_rate=-1",
        "--model.optim.beta1=1",
        "--samples.every=-1",
        "--checkpoint.every=-1",
        "--inspect.tokens=0",
        "--data.corpus=nowhere.txt",
        "--data.context_length=5000",
        "--trainer.accelerator=cuda",
        "--trainer.val_check_interval=0",
        "--trainer.accumulate_grad_batches=0",
        "--trainer.max_steps=0",
    )
    assert status == 1
    for expected in (
        "8 / 3 leaves 2",
        "dropout must be in [0, 1), got 2.0",
        "learning_rate must be above 0",
        "beta1 must be in [0, 1)",
        "every must be at least 0 steps, got -1; 0 is never",
        "inspect.tokens must be at least 1, got 0",
        "checkpoint.every must be at least 0",
        "no corpus 'nowhere.txt'",
        "trainer: `CUDAAccelerator` can not run on your system",
        "trainer.val_check_interval must be at least 1",
        "trainer.accumulate_grad_batches must be at least 1",
        "trainer.max_steps is 0",
    ):
        assert sum(expected in error for error in errors(lines)) == 1, expected
    assert not Path("runs").exists()


def test_problems_of_the_text_are_among_them(fit, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("too short")
    _, lines = fit(*QUICK, f"--data.corpus={short}", "--model.gpt.n_head=3")
    assert len(errors(lines)) == 2
    assert any("needs 17 tokens, train has 8, validation has 1" in error for error in errors(lines))
    _, lines = fit(*QUICK, "--data.batch_size=5000", "--model.gpt.n_head=3")
    assert any("no full batch to train on: 1,173 windows" in error for error in errors(lines))


def test_a_model_larger_than_the_memory_and_the_disk_is_refused(fit, monkeypatch):
    monkeypatch.setattr("llm.preflight.making.free_memory", lambda device: 10_000)
    monkeypatch.setattr("llm.preflight.making.shutil.disk_usage", lambda path: type("Usage", (), {"free": 20_000}))
    status, lines = fit(*QUICK)
    assert status == 1
    memory, disk = errors(lines)
    assert memory.startswith("not enough memory")
    assert "10 kB free" in memory
    assert disk.startswith("not enough disk")
    assert not Path("runs").exists()


def test_memory_that_may_not_do_is_a_hint(fit, monkeypatch):
    monkeypatch.setattr("llm.preflight.making.free_memory", lambda device: 1_000_000)
    status, lines = fit(*QUICK, "--preflight")
    assert status == 0
    assert any(hint.startswith("memory may not suffice") for hint in hints(lines))


@pytest.mark.skipif(
    not hasattr(__import__("os"), "geteuid") or __import__("os").geteuid() == 0, reason="root may write"
)
def test_a_folder_that_can_not_be_written_is_refused(fit, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    status, lines = fit(*QUICK, f"--trainer.logger.init_args.save_dir={folder}")
    assert status == 1
    assert "is not writable" in errors(lines)[0]


def test_no_text_is_read_for_a_folder_that_can_not_be_made(fit, tmp_path):
    (file := tmp_path / "file").touch()
    status, lines = fit(*QUICK, f"--trainer.logger.init_args.save_dir={file}/runs", "--data.corpus=nowhere.txt")
    assert status == 1
    (error,) = errors(lines)
    assert "is not writable" in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model.optim.warmup_steps=3"], "warmup_steps 3 is no less than the run's 3 steps"),
        (["--model.optim.learning_rate=1"], "learning_rate 1 is unusual"),
        (["--trainer.max_steps=30000"], "memorize the text"),
        (["--data.validation_fraction=0"], "there is no validation"),
        (["--trainer.accumulate_grad_batches=1000"], "an epoch has 586 batches"),
        (["--trainer.precision=16-mixed"], "processors have no float16"),
        (["--trainer.max_epochs=1", "--trainer.max_steps=-1", "--trainer.val_check_interval=600"], "at the end only"),
        (["--data.stride=64"], "75% of the text is never seen"),
        (["--model.lora.rank=2"], "random values, for the run begins without trained weights: give --model.pretrained"),
        (["--model.train=head"], "or leave model.train out"),
        (
            ["--trainer.max_steps=200", "--trainer.callbacks+=EMAWeightAveraging"],
            "decay 0.999 is over some 1,000 steps",
        ),
    ],
)
def test_what_may_not_be_meant_is_a_hint(fit, words, expected):
    status, lines = fit("--preflight", *QUICK, *words)
    assert status == 0, lines
    assert sum(expected in hint for hint in hints(lines)) == 1, lines


def test_validation_is_kept_to_a_tenth_of_the_time_unless_the_user_says_when(fit):
    words = ["--preflight", *QUICK, "--trainer.max_steps=5000", "--data.validation_fraction=0.5"]
    # 651 windows, in batches of two, each a third of a training batch, by nine
    expected = {"": 980, "--trainer.val_check_interval=50": 50, "--trainer.limit_val_batches=0.5": 490}
    expected["--data.validation_windows=10"] = 25
    for word, interval in expected.items():
        status, lines = fit(*words, *([word] if word else []))
        assert status == 0, lines
        (steps,) = (line for line in lines if line.startswith("steps"))
        assert f"validation every {interval}" in steps
        assert ("a tenth of the time at most" in steps) == (interval > 60)
    assert sum("in 10 of 651 windows spread evenly" in line for line in lines) == 1


def test_an_interval_that_lightning_would_refuse_later_is_refused_now(fit):
    status, lines = fit(
        "--preflight", *QUICK, "--trainer.check_val_every_n_epoch=1", "--trainer.val_check_interval=600"
    )
    assert status == 1
    assert "is 600 batches and an epoch has 586" in errors(lines)[0]


def test_other_weights_than_the_run_wants_are_refused(fit, tmp_path):
    gpt = GPTConfig(vocab_size=97, context_length=8, n_layer=1, n_head=2, n_embd=8)
    export(Pretrained("llm", gpt, GPT(gpt).state_dict()), "weights.safetensors", "safetensors")
    status, lines = fit("--model.pretrained=weights.safetensors", *QUICK, "--model.gpt.n_layer=2", "--samples.every=-1")
    assert status == 1
    samples, weights = errors(lines)
    assert "at least 0 steps" in samples
    for expected in ("vocab_size (97 in the weights, 62 requested)", "n_layer (1 in", "the weights have 8 positions"):
        assert expected in weights
    assert fit(*QUICK)[0] == 0
    (last,) = tmp_path.rglob("last.ckpt")
    status, lines = fit(f"--ckpt_path={last}", "--model.gpt.n_layer=2", "--data.context_length=8")
    assert status == 1
    assert "n_layer (1 in the checkpoint, 2 now)" in errors(lines)[0]
    assert "context_length (16 in the checkpoint, 8 now)" in errors(lines)[0]


def test_a_run_that_goes_on_says_from_where(fit, tmp_path):
    assert fit(*QUICK)[0] == 0
    (last,) = tmp_path.rglob("last.ckpt")
    _, lines = fit("--preflight", *QUICK, f"--ckpt_path={last}", "--trainer.max_steps=5")
    assert any("5, resuming after 3" in line for line in lines)
    _, lines = fit("--preflight", *QUICK, f"--ckpt_path={last}")
    assert any("is at step 3 of 3" in hint for hint in hints(lines))


def test_the_run_is_the_one_that_was_announced(fit, tmp_path, monkeypatch):
    made = []
    choose = of_data.choose_tokenizer
    monkeypatch.setattr(of_data, "choose_tokenizer", lambda *words: made.append(1) or choose(*words))
    words = [*TINY, "--data.tokenizer.kind=char", "--data.batch_size=64", "--trainer.max_steps=-1"]
    status, lines = fit(*words, "--trainer.max_epochs=2", "--trainer.accumulate_grad_batches=4", "--inspect.every=0")
    assert status == 0
    assert made == [1], "the vocabulary is learned once"
    (last,) = tmp_path.rglob("last.ckpt")
    steps = read_checkpoint(last)["global_step"]
    assert any(line.startswith(f"steps       {steps} of 4 batches") for line in lines), lines
    events = EventAccumulator(str(last.parents[1]), {"tensors": 0}).Reload()
    assert "4 preflight/text_summary" in events.Tags()["tensors"]


def test_a_schedule_of_accumulation_is_planned(fit, tmp_path):
    words = [*TINY, "--data.tokenizer.kind=char", "--data.batch_size=64", "--trainer.max_steps=-1"]
    schedule = ["--trainer.callbacks+=GradientAccumulationScheduler", "--trainer.callbacks.scheduling={0: 2, 1: 9}"]
    status, lines = fit(*words, *schedule, "--trainer.max_epochs=3", "--inspect.every=0", "--samples.every=0")
    assert status == 0
    (last,) = tmp_path.rglob("last.ckpt")
    steps = read_checkpoint(last)["global_step"]  # of 18 batches in each epoch: 9, then 2 and 2
    tokens = 3 * 18 * 64 * 16
    assert steps == 13
    assert any(f"13 of 2 batches, 9 from epoch 1 on: {tokens:,} tokens, 3.0 epochs" in line for line in lines), lines
    status, lines = fit("--preflight", *words, *schedule[:1], "--trainer.callbacks.scheduling={'1': 30}")
    assert any("accumulates 30 batches and an epoch has 18" in hint for hint in hints(lines)), lines


def test_it_draws_no_random_number(fit, monkeypatch):
    seen = []

    def build(self, *args, **kwargs):
        seen.append(torch.get_rng_state())
        raise KeyboardInterrupt

    monkeypatch.setattr("llm.model.GPT.__init__", build)
    assert fit(*QUICK, "--seed_everything=5")[0] == 130
    torch.manual_seed(5)
    assert torch.equal(seen[0], torch.get_rng_state())


def test_every_shipped_configuration_is_fine_but_for_the_text(fit):
    for config in sorted((REPOSITORY / "configs").rglob("*.yaml")):
        if config.stem in ("finetune", "classify_pretrained", "774m", "1558m", "355m", "llama-3.2-1b", "qwen3-0.6b"):
            continue  # weights, or more memory than a small machine has
        settings = yaml.safe_load(config.read_text())
        if not can_be_planned(TASKS[settings.get("task", LANGUAGE)]):  # a task has tests of its own
            continue
        words = ["--trainer.max_steps=0", "--data.batch_size=1"]  # the story is short
        _, lines = fit("--config", str(config), "--preflight", *words)
        assert errors(lines) == [
            "trainer.max_steps is 0, so there is nothing to train; leave it out, or set it to 1 or more"
        ]
        assert not any("learning_rate" in hint for hint in hints(lines)), settings


def test_help_comes_before_anything_large_is_imported():
    code = (
        "import sys, llm.cli.starting\n"
        "sys.argv = ['train.py', '--help']\n"
        "assert llm.cli.starting.main() == 0\n"
        "assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "python train.py fit --data.corpus my.txt" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_a_task_of_another_network_is_planned_as_it_is(fit):
    words = [word.replace("model.gpt", "model.encoder") for word in QUICK]
    status, lines = fit("--task=masked", "--preflight", *words)
    assert status == 0
    table = {line[:12].strip(): line[12:] for line in lines if line[10:12] == "  "}
    settings = {"n_layer": 1, "n_head": 2, "n_embd": 8, "positions": "rotary"}
    encoder = EncoderConfig(63, 16, **settings)  # 62 characters and the mask token
    assert table["parameters"].startswith(f"{Encoder(encoder).n_parameters:,}, ")
    assert "tokenizer char, 63 tokens" in table["corpus"]
    status, lines = fit(
        "--task=masked", *words, "--model.encoder.n_head=3", "--data.masked_fraction=2", "--inspect.tokens=0"
    )
    assert status == 1
    for expected in ("8 / 3 leaves 2", "masked_fraction must be in (0, 1], got 2.0", "inspect.tokens must be at least"):
        assert sum(expected in error for error in errors(lines)) == 1, expected


@pytest.mark.parametrize(
    ("kind", "config", "wrong"),
    [
        ("transformer", TransformerConfig(26, 16, n_layer=1, n_head=2, n_embd=8, source_vocab_size=26), "n_head=3"),
        ("rnn", RNNConfig(26, 16, n_embd=8, hidden_size=6, source_vocab_size=26), "hidden_size=0"),
    ],
)
def test_a_translator_is_planned_as_it_is(fit, kind, config, wrong):
    pairs = [f"the {noun} {verb}\t{verb[::-1]} {noun}" for noun in ("cat", "dog", "mat") for verb in ("ran", "left")]
    Path("pairs.tsv").write_text("\n".join(pairs) + "\n")
    settings = {**config.to_dict(), "source_vocab_size": None, "vocab_size": None, "context_length": None}
    network = [f"--model.{kind}.{name}={settings[name]}" for name in ("n_layer", "n_head", "n_embd", "hidden_size")
               if settings.get(name) is not None]  # fmt: skip
    words = ["--task=translate", f"--model.kind={kind}", *network, "--data.corpus=pairs.tsv"]
    words += ["--data.context_length=16", "--data.batch_size=2", "--trainer.max_steps=3", "--model.sentences=0"]
    status, lines = fit("--preflight", *words)
    assert status == 0, lines
    table = {line[:12].strip(): line[12:] for line in lines if line[10:12] == "  "}
    tokens = int(re.search(r"tokenizer char, (\d+) tokens", table["corpus"])[1])
    sized = dataclasses.replace(config, vocab_size=tokens, source_vocab_size=tokens)
    if kind == "transformer":
        sized = dataclasses.replace(sized, positions="rotary")
    assert table["parameters"].startswith(f"{build_network(sized).n_parameters:,}, ")
    assert "of up to 13 tokens" in table["pairs"]  # the cat left, and its end
    assert {"memory", "time", "steps"} <= set(table)
    status, lines = fit("--preflight", *words, f"--model.{kind}.{wrong}", "--data.batch_size=0")
    assert status == 1
    assert any("batch_size must be at least 1" in error for error in errors(lines))
    assert len(errors(lines)) == 2, "and what is wrong with the network"


def test_a_translators_source_is_counted_with_its_target():
    config = TransformerConfig(50, 16, n_layer=2, n_head=2, n_embd=16, source_vocab_size=50)
    both, decoder = (
        step_costs(of, 4, "32-true", "cpu") for of in (config, GPTConfig(50, 16, n_layer=2, n_head=2, n_embd=16))
    )
    C, T = 16, 16
    block = 2 * 4 * T * (12 * C * C + 2 * T * C)  # operations of the forward pass, all four rows
    cross = 2 * 4 * T * (4 * C * C + 2 * T * C)
    assert both.flops - decoder.flops == pytest.approx(3 * 2 * (block + cross), rel=0.05)
    config = RNNConfig(50, 12, n_embd=16, hidden_size=16, source_vocab_size=50)
    rnn = step_costs(config, 4, "32-true", "cpu")  # from fewer tokens

    def forward(network):
        ids = torch.zeros(4, 12, dtype=torch.int64)
        return torch.nn.functional.cross_entropy(network(ids, None, ids).flatten(0, 1), ids.flatten())

    counted = count_costs(lambda: build_network(config), forward, "32-true", "cpu")
    assert dataclasses.astuple(rnn) == pytest.approx(dataclasses.astuple(counted), rel=0.05)


def test_word_vectors_are_planned(fit, recwarn):
    words = ["--task=word_vectors", "--model.words.n_embd=8", "--data.min_count=1", "--data.context_length=32"]
    words += ["--data.batch_size=2", "--trainer.max_steps=3"]
    status, lines = fit("--preflight", *words)
    assert status == 0, lines
    table = {line[:12].strip(): line[12:] for line in lines if line[10:12] == "  "}
    tokens = int(re.search(r"tokenizer word, ([\d,]+) tokens", table["corpus"])[1].replace(",", ""))
    count = 2 * tokens * 8
    assert table["parameters"] == f"{count:,}, of them {count:,} in embeddings and head"
    assert {"memory", "time", "steps"} <= set(table)
    assert not [warning for warning in recwarn if "FakeTensor" in str(warning.message)]
    assert not any("tokens for each parameter" in hint for hint in hints(lines)), lines
    _, lines = fit("--preflight", *words, "--model.train=predicted.*")
    assert any("(50 %) trained" in line for line in lines), lines
    status, lines = fit("--preflight", *words, "--model.train=heads", "--model.words.n_embd=0")
    assert status == 1
    assert any("n_embd must be at least 1, got 0" in error for error in errors(lines))


def test_costs_of_word_vectors_are_those_of_their_products():
    config = WordVectorsConfig(50, n_embd=16)
    costs = word_costs(config, {"batch_size": 3, "context_length": 12, "n_noise": 7, "window": 5}, "32-true", "cpu")
    assert (
        costs.flops == 3 * 2 * 3 * 12 * (12 + 7) * 16
    )  # forward and backward; B rows of T words, T others and N noise
    assert costs.backward_peak >= 2 * 50 * 16 * 4, "the gradients of both tables"
