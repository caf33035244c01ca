"""`train.py` as a user meets it: configurations, overrides, errors."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from one_line import error
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import llm
from llm.__main__ import main as use
from llm.cli.main import main
from llm.cli.words import value_in_files
from llm.pretrained import Pretrained, export
from llm.pretrained.checkpoint import read_checkpoint
from llm.tasks import TASKS

REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))
TINY = ["--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--data.context_length=16"]
QUICK = [*TINY, "--data.batch_size=2", "--trainer.max_steps=3", "--trainer.limit_val_batches=2"]
CHAR = ["--data.tokenizer.kind=char"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def shell(words: list[str]) -> int:
    return main(words, default_config=REPOSITORY / "configs" / "default.yaml")


def run(*words: str) -> int:
    return shell(list(words))


@pytest.fixture
def trained():
    assert run("fit", *QUICK, *CHAR) == 0
    return next(Path("runs").rglob("last.ckpt"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.relative_to(REPOSITORY / "configs")))
def test_every_configuration_runs(config):
    overrides = ["--trainer.precision=32-true", "--trainer.accumulate_grad_batches=1", "--trainer.accelerator=cpu"]
    if "pretrained" in yaml.safe_load(config.read_text()).get("model", {}):
        gpt = llm.GPTConfig(vocab_size=50257, context_length=16, n_layer=1, n_head=2, n_embd=8)
        export(Pretrained("llm", gpt, llm.GPT(gpt).state_dict()), "weights.safetensors", "safetensors")
        overrides.append("--model.pretrained=weights.safetensors")
    settings = yaml.safe_load(config.read_text())
    task, kind = TASKS[settings.get("task", "language")], settings.get("model", {}).get("kind")
    group = task.network_group if kind is None else f"model.{kind}"
    module = task.module_class()
    sizes = {field.name for field in dataclasses.fields(module.architectures.get(kind, module.network_config))}
    if config.parent.name == "llama":
        overrides += ["--model.gpt.n_kv_head=1", "--model.gpt.head_size=4", "--model.gpt.mlp_hidden=12"]
    quick = [
        word.replace("--model.gpt", f"--{group}")
        for word in QUICK
        if not word.startswith("--model.gpt.") or word.split(".")[2].partition("=")[0] in sizes
    ]
    if settings.get("data", {}).get("corpus") == "dates":
        quick.append("--data.skip_longer=true")
    assert run("fit", "--config", str(config), *quick, *overrides) == 0
    assert next(Path("runs").rglob("last.ckpt")).is_file()


@pytest.mark.parametrize(
    ("native", "words", "precision"),
    [
        (True, [], "bf16-mixed"),
        (True, ["--trainer.precision=null"], "bf16-mixed"),
        (False, [], None),
        (True, ["--trainer.precision=32-true"], "32-true"),
    ],
)
def test_bfloat16_is_the_default_where_it_is_native_and_nobody_said_otherwise(
    native, words, precision, monkeypatch, capsys
):
    monkeypatch.setattr("llm.cli.settling.has_native_bfloat16", lambda accelerator: native)
    assert run("fit", *QUICK, *CHAR, *words) == 0
    assert ("cpu, bf16-mixed" in capsys.readouterr().err) == (precision == "bf16-mixed")
    config = yaml.safe_load(next(Path("runs").rglob("config.yaml")).read_text())
    assert config["trainer"]["precision"] == precision


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_no_configuration_sets_what_follows_from_the_data(config):
    settings = yaml.safe_load(config.read_text())
    follows = TASKS[settings.get("task", "language")].sources
    assert all(value_in_files([settings], name) is None for name in follows)


def test_the_quick_start_leaves_what_it_promises(capsys):
    assert run("fit", *QUICK, "--trainer.log_every_n_steps=1") == 0
    output = capsys.readouterr().err
    folder = next(Path("runs").rglob("config.yaml")).parent
    checkpoint, look, generate = output.strip().splitlines()[-3:]
    assert Path(checkpoint.split()[-1]).is_file()
    assert f"tensorboard --logdir {folder}" in look
    assert "python -m llm generate --ckpt" in generate
    assert re.search(r"token embeddings +\(B, T, C\) +2x16x8", output)
    assert "block 0 / weights" in (folder / "shapes.md").read_text()

    events = EventAccumulator(str(folder), {"images": 0, "tensors": 0, "scalars": 0}).Reload()
    scalars = set(events.Tags()["scalars"])
    for split in ("train", "validation"):
        assert {f"{split}/loss", f"{split}/perplexity", f"{split}/token_accuracy"} <= scalars
    assert "validation/bits_per_byte" in scalars
    assert {"train/step/learning_rate", "train/step/gradient_norm"} <= scalars
    first = events.Scalars("validation/loss")[0]
    assert first.step == 0
    assert 6.6 < first.value < 7.6  # about ln 1,237: nothing is known yet
    assert any(tag.startswith("within attention/") for tag in events.Tags()["images"])
    texts = {tag.removesuffix("/text_summary") for tag in events.Tags()["tensors"]}
    assert {"1 samples", "2 shapes", "3 configuration"} <= texts


def test_overrides_beat_the_file_and_land_in_the_run():
    config = REPOSITORY / "configs" / "notes" / "causal.yaml"
    assert run("fit", "--config", str(config), *QUICK, "--data.stride=7", "--model.optim.learning_rate=0.01") == 0
    saved = yaml.safe_load(next(Path("runs").rglob("config.yaml")).read_text())
    assert saved["data"]["stride"] == 7
    assert saved["model"]["optim"]["learning_rate"] == 0.01
    assert saved["model"]["gpt"]["attention"] == "causal"
    assert saved["trainer"]["max_steps"] == 3


@pytest.mark.parametrize("given", [["--config", "few.yaml"], ["--config=few.yaml"], ["-c", "few.yaml"]])
def test_flags_beat_a_file_wherever_they_stand(given):
    Path("few.yaml").write_text("trainer: {max_steps: 9, val_check_interval: 2}\ndata: {stride: 5}\n")
    assert run("fit", *CHAR, *QUICK, "--data.stride=7", *given, "--trainer.limit_val_batches=1") == 0
    saved = yaml.safe_load(next(Path("runs").rglob("config.yaml")).read_text())
    assert (saved["trainer"]["max_steps"], saved["data"]["stride"]) == (3, 7)
    assert saved["trainer"]["val_check_interval"] == 2, "and the file beats the defaults"


def test_of_two_files_the_later_wins():
    Path("one.yaml").write_text("trainer: {max_steps: 2}\ndata: {stride: 5}\n")
    Path("two.yaml").write_text("trainer: {max_steps: 1}\n")
    words = [word for word in QUICK if "max_steps" not in word]
    assert run("fit", "--config=one.yaml", *CHAR, *words, "--config", "two.yaml") == 0
    saved = yaml.safe_load(next(Path("runs").rglob("config.yaml")).read_text())
    assert (saved["trainer"]["max_steps"], saved["data"]["stride"]) == (1, 5)


def test_commands_are_printed_as_a_shell_reads_them(capsys):
    name = "é ü/x y"
    assert run("fit", *QUICK, *CHAR, "--name", name) == 0
    *_, checkpoint, look, generate = capsys.readouterr().err.strip().splitlines()
    path = checkpoint.partition(":")[2].strip()
    assert Path(path).is_file()
    assert name in path
    words = shlex.split(look.partition(":")[2])
    assert Path(words[words.index("--logdir") + 1]).is_dir()
    words = shlex.split(generate.partition(":")[2])
    assert words[:6] == ["python", "-m", "llm", "generate", "--ckpt", path]


@pytest.mark.parametrize("word", ["--model=model.yaml", "--model={gpt: {dropout: 0.5}}", "--model.gpt={dropout: 0.5}"])
def test_a_group_given_at_once_is_only_what_it_holds(trained, word):
    Path("model.yaml").write_text("gpt: {dropout: 0.5}\n")
    assert run("fit", *QUICK[4:], word, "--ckpt_path=last", "--trainer.max_steps=4") == 0
    saved = yaml.safe_load(next(Path("runs").rglob("config.yaml")).read_text())
    assert saved["model"]["gpt"]["dropout"] == 0.5
    assert saved["model"]["gpt"]["n_layer"] == 1, "the rest is the checkpoint's"


def test_printed_configuration_runs(capsys, tmp_path):
    with pytest.raises(SystemExit):
        run("fit", *QUICK, *CHAR, "--print_config")
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert run("fit", "--config", str(printed)) == 0


def test_help_documents_every_option(capsys):
    with pytest.raises(SystemExit) as status:
        run("fit", "--help")
    assert status.value.code == 0
    output = capsys.readouterr().out
    for option in ("--model.gpt.n_layer", "--model.optim.learning_rate", "--data.corpus", "--inspect.every"):
        entry = re.search(rf"^  {option} .+\s+\S.{{20,}}", output, re.MULTILINE)
        assert entry, option


def test_tensorboard_lists_the_learning_rate_and_what_flags_set_first():
    assert run("fit", *QUICK, "--data.seed=7") == 0
    folder = next(Path("runs").rglob("config.yaml")).parent
    events = EventAccumulator(str(folder)).Reload()
    data = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    infos = HParamsPluginData.FromString(data).experiment.hparam_infos
    first = {info.name for info in infos if info.differs}
    assert {"model.optim.learning_rate", "data.seed", "data.batch_size"} <= first
    assert "data.shuffle" in {info.name for info in infos} - first


def test_help_says_of_lightnings_flags_a_sentence_and_names_what_works(capsys):
    with pytest.raises(SystemExit):
        run("fit", "--help")
    entries = re.split(r"^  (?=--)", capsys.readouterr().out, flags=re.MULTILINE)
    of = {entry.split()[0].rstrip(","): " ".join(entry.split()) for entry in entries[1:]}
    assert "EarlyStopping" in of["--trainer.callbacks"]
    for name in ("BaseFinetuning", "ThroughputMonitor", "BestAndLast", "LambdaCallback"):
        assert name not in of["--trainer.callbacks"]
    assert "TensorBoardLogger" in of["--trainer.logger"]
    assert "CheckpointIO" not in of["--trainer.plugins"]
    assert "--trainer.barebones" not in of
    assert "bf16-mixed" in of["--trainer.precision"]
    assert of["--trainer.max_steps"].endswith("after this number of steps. (default: 200)")
    for option, text in of.items():
        if option.startswith("--trainer.") and "one of" not in text:
            assert len(text) < 300, option


def test_a_run_that_sees_the_future_says_so(capsys):
    config = REPOSITORY / "configs" / "notes" / "self.yaml"
    assert run("fit", "--config", str(config), *QUICK) == 0
    assert "not causal" in capsys.readouterr().err
    events = EventAccumulator(str(next(Path("runs").rglob("config.yaml")).parent)).Reload()
    assert "0 warning/text_summary" in events.Tags()["tensors"]


def test_a_checkpoint_brings_architecture_and_tokenizer(trained, capsys):
    capsys.readouterr()
    assert run("validate", "--ckpt_path", str(trained)) == 0
    assert "validation/loss" in capsys.readouterr().out
    assert run("test", "--ckpt_path", "last") == 0
    assert len(list(Path("runs").rglob("config.yaml"))) == 1, "evaluating is not a run of its own"


def test_resuming_goes_on_where_it_stopped(trained):
    assert run("fit", *QUICK, "--ckpt_path", str(trained), "--trainer.max_steps=5") == 0
    content = read_checkpoint(trained)
    assert content["global_step"] == 5, "in the same folder"
    before = read_checkpoint(trained.with_name("previous.ckpt"))
    assert before["global_step"] == 3


def test_a_resumed_run_is_one_curve(trained):
    assert (
        run("fit", *QUICK, "--ckpt_path", str(trained), "--trainer.max_steps=6", "--trainer.log_every_n_steps=1") == 0
    )
    events = EventAccumulator(str(trained.parents[1]), {"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [4, 5, 6]
    assert [event.step for event in events.Scalars("validation/loss")] == [0, 3, 6]


@pytest.mark.parametrize("kind", ["gpt2", "char", "word"])
def test_the_configuration_of_a_run_goes_on_with_it_and_measures_it(kind, capsys):
    assert run("fit", *QUICK, f"--data.tokenizer.kind={kind}") == 0
    folder = Path("runs/gpt/version_0")
    words = ["--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]
    assert run("fit", *words, "--trainer.max_steps=5") == 0
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 5
    for command in ("validate", "test"):
        assert run(command, *words) == 0
    model, _ = llm.load(folder)
    best, _ = llm.load(folder / "checkpoints" / "best.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), best.parameters(), strict=True))
    assert [path.name for path in Path("runs/gpt").iterdir()] == ["version_0"], "evaluating is not a run of its own"
    assert "--fresh is for fit" in error(capsys, shell, "validate", *words, "--fresh")


def test_a_model_is_measured_on_the_text_of_its_own_run_and_that_is_said(capsys):
    Path("mine.txt").write_text("to be or not to be, that is the question. " * 200)
    assert run("fit", *QUICK, *CHAR, "--data.corpus=mine.txt", "--data.validation_fraction=0.3") == 0
    of_the_run = EventAccumulator("runs/gpt/version_0").Reload().Scalars("validation/loss")[-1].value
    capsys.readouterr()
    assert run("validate", "--ckpt_path=last", "--trainer.limit_val_batches=2", "--data.batch_size=2") == 0
    out, err = capsys.readouterr()
    measured = float(re.search(r"validation/loss\W+([\d.]+)", out)[1])
    assert measured == pytest.approx(of_the_run, abs=2e-3)  # in bfloat16 while training, where that is native
    assert "model:       runs/gpt/version_0/checkpoints/last.ckpt, step 3" in err
    assert "text:        mine.txt, the last 30% of it" in err
    Path("other.txt").write_text("to be that or this not. " * 200)
    assert run("test", "--ckpt_path=last", "--data.test_corpus=other.txt") == 0
    assert "text:        other.txt\n" in capsys.readouterr().err
    assert run("validate", "--ckpt_path=last", "--data.corpus=other.txt") == 0
    assert "text:        other.txt, the last 10% of it" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--trainer.max_steps=5"], ["--trainer.max_steps=9"]])
def test_a_short_run_is_validated_at_its_end(words, capsys):
    Path("mine.txt").write_text("to be or not to be, that is the question. " * 8)  # 300 characters: 9 batches
    accumulated = ["--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=1000"]
    assert run("fit", *QUICK, *CHAR, "--data.corpus=mine.txt", "--data.stride=16", *accumulated, *words) == 0
    assert "validation comes at the end only" in capsys.readouterr().err
    steps = [event.step for event in EventAccumulator("runs/gpt/version_0").Reload().Scalars("validation/loss")]
    assert steps == [0, int(words[0].rpartition("=")[2])]
    assert Path("runs/gpt/version_0/checkpoints/best.ckpt").is_file()


def test_what_ended_a_run_and_which_is_its_best_are_said(capsys):
    words = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=validation/loss"]
    words += ["--trainer.callbacks.stopping_threshold=100", "--trainer.val_check_interval=2"]
    assert run("fit", *QUICK, *CHAR, *words) == 0
    err = capsys.readouterr().err
    assert "stopped early, at step 2: " in err
    loss = EventAccumulator("runs/gpt/version_0").Reload().Scalars("validation/loss")[-1].value
    assert f"best:        step 2, validation loss {loss:.3f}\n" in err


def test_another_checkpoint_than_the_last_begins_a_run_of_its_own(trained):
    content = trained.read_bytes()
    shutil.copy(trained, "copy.ckpt")
    assert run("fit", *QUICK, "--ckpt_path=copy.ckpt", "--trainer.max_steps=5") == 0
    assert trained.read_bytes() == content
    assert Path("runs/gpt/version_1/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize(("task", "text"), [("language", "--prompt-" * 99), ("masked", "天地玄黄宇宙洪荒" * 99)])
def test_the_command_that_is_printed_can_be_used(capsys, task, text):
    Path("text.txt").write_text(text)
    network = TASKS[task].network_group
    words = [word.replace("--model.gpt", f"--{network}") for word in (*QUICK, *CHAR)]
    assert run("fit", f"--task={task}", *words, "--trainer.max_steps=1", "--data.corpus=text.txt") == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if ": python -m llm" in " ".join(line.split()))
    assert use(shlex.split(line)[4:]) == 0
    assert text[:8] in capsys.readouterr().out


def test_the_best_is_weights_alone_to_use_and_to_begin_from_but_not_to_resume(trained, capsys):
    best = trained.with_name("best.ckpt")
    content = read_checkpoint(best)
    assert content["llm"]["tokenizer"] is not None
    assert content["state_dict"]
    assert not {"optimizer_states", "lr_schedulers", "loops", "callbacks"} & content.keys()
    assert run("validate", *QUICK, "--ckpt_path=best") == 0
    assert "so there is no run to resume: go on with the newest by --ckpt_path last" in error(
        capsys, shell, "fit", *QUICK, "--ckpt_path=best"
    )
    assert [path.name for path in Path("runs/gpt").iterdir()] == ["version_0"]
    assert run("fit", *QUICK, f"--model.pretrained={best}", "--trainer.max_steps=1") == 0


def test_a_checkpoint_brings_the_settings_of_its_optimizer(capsys):
    assert run("fit", *QUICK, *CHAR, "--model.optim.learning_rate=0.004") == 0
    assert run("fit", *QUICK, "--ckpt_path=last", "--trainer.max_steps=5") == 0
    saved = yaml.safe_load(Path("runs/gpt/version_0/config.yaml").read_text())
    assert saved["model"]["optim"]["learning_rate"] == 0.004
    config = Path("runs/gpt/version_0/config.yaml").read_bytes()
    message = error(capsys, shell, "fit", *QUICK, "--ckpt_path=last", "--model.optim.learning_rate=0.005")
    assert "learning_rate (0.004 in the checkpoint, 0.005 now)" in message
    assert Path("runs/gpt/version_0/config.yaml").read_bytes() == config


@pytest.mark.parametrize("words", [["--data.tokenizer.kind=gpt2"], ["--data.tokenizer.specials=[<|x|>]", *CHAR]])
def test_another_tokenizer_than_the_checkpoint_is_refused(trained, capsys, words):
    assert "in the checkpoint" in error(capsys, shell, "fit", *QUICK, "--ckpt_path", str(trained), *words)


def test_predict_continues_every_prompt(trained, capsys, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Wenna\n\nthe Bishop\n")
    words = ["--data.prompts", str(prompts), "--model.sampling.max_new_tokens=5"]
    assert run("predict", "--ckpt_path", str(trained), *words, "--predictions.output", "out.jsonl") == 0
    lines = [yaml.safe_load(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [(line["line"], line["prompt"]) for line in lines] == [(1, "Wenna"), (3, "the Bishop")]
    assert all(line["continuation"] for line in lines)


def test_bad_input_is_one_line(capsys, tmp_path):
    short, latin, empty = (tmp_path / name for name in ("short.txt", "latin.txt", "empty.txt"))
    short.write_text("too short")
    latin.write_bytes(b"caf\xe9 noir")
    empty.write_text("")
    for words, expected in (
        (["--model.gpt.n_layr=3"], "did you mean --model.gpt.n_layer?"),
        (["--n_layer=3"], "did you mean --model.gpt.n_layer?"),
        (["--model.gpt.n_head=3"], "128 / 3 leaves 2"),
        (["--model.gpt.vocab_size=3"], "follows from data.vocab_size"),
        (["--data.stride=0"], "stride must be at least 1, got 0"),
        (["--data.context_length=0"], "context_length must be at least 1, got 0"),
        (["--inspect.features=[maps, pge]"], "film, page; got pge; did you mean page?"),
        (["--model.gpt.attention=multihead"], "did you mean multi_head?"),
        (["--model.gpt.n_layer=1.5"], "model.gpt.n_layer must be an integer, got 1.5"),
        (["--model.gpt=3"], "model.gpt takes settings by name"),
        (["--checkpoint.every=-1"], "checkpoint.every must be at least 0"),
        (["--samples.every=-1"], "must be at least 0 steps, got -1"),
        (["--trainer.logger=Logger"], "trainer.logger: this is a base class to subclass; give TensorBoardLogger"),
        (["--trainer.strategy=dpp"], "invalid strategy name"),
        (["--trainer.val_check_interval=0"], "val_check_interval must be at least 1"),
        (["--seed_everything=-1"], "must be 0 to 4294967295"),
        (["--data.corpus=/dev/zero"], "is not a regular file"),
        (["--data.corpus=nowhere.txt"], "no corpus 'nowhere.txt'"),
        ([f"--data.corpus={short}"], "needs 65 tokens, train has"),
        ([f"--data.corpus={latin}"], "byte 0xe9 at offset 3"),
        ([f"--data.corpus={empty}"], "is empty"),
        (["--data.tokenizer.kind=nonsense"], "unknown tokenizer 'nonsense'"),
        (["--ckpt_path=nowhere.ckpt"], "there is no checkpoint 'nowhere.ckpt'"),
        (["--ckpt_path=last"], "there is no checkpoint in 'runs/gpt' and below; start a new run with --fresh"),
        ([f"--ckpt_path={short}"], "is not a checkpoint"),
    ):
        assert expected in error(capsys, shell, "fit", *words), words
    assert "ckpt_path" in error(capsys, shell, "validate")
    assert not Path("runs").exists(), "a command that fails leaves no run behind"


def test_bad_configuration_files_are_one_line(capsys, tmp_path):
    for content, expected in (
        ("model: {gpt: {n_layr: 3}}", "did you mean model.gpt.n_layer?"),
        ("modl: {}", "did you mean model?"),
        ("model: 3", "model must hold settings by name"),
        ("data: [story]", "data must hold settings by name"),
        ("", "it holds nothing"),
        ("[1]", "it holds [1]"),
        ("trainer: {logger: {class_path: TensorBoardLogger, init_args: {save_dr: x}}}", "did you mean save_dir?"),
        ("trainer: {callbacks: [{class_path: EarlyStoping}]}", "no class 'EarlyStoping'"),
        ("model: {gpt: {context_length: 3}}", "set data.context_length instead"),
        ("model: [", "is not valid YAML"),
    ):
        path = tmp_path / "bad.yaml"
        path.write_text(content)
        assert expected in error(capsys, shell, "fit", "--config", str(path))


def test_another_architecture_than_the_checkpoint_is_refused(trained, capsys):
    message = error(capsys, shell, "fit", *CHAR, "--ckpt_path", str(trained), "--model.gpt.n_layer=2")
    assert "n_layer (1 in the checkpoint, 2 now); omit these settings, as flags and in YAML files alike, " in message
    assert "start a new run without --ckpt_path" in message
