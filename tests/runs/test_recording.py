"""Shape table, samples, pictures and configuration reach every logger that can take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.loggers import CometLogger, CSVLogger, MLFlowLogger
from PIL import Image

from llm.cli.main import main
from llm.inspection import tags
from llm.runs.recording import records_of

REPOSITORY = Path(__file__).parents[2]
TEXTS = {tags.CONFIGURATION, tags.SHAPES, tags.SAMPLES, tags.PREFLIGHT, tags.LENS, tags.NEIGHBOURS}
PICTURES = {f"{tags.ATTENTION}/layer 0", f"{tags.ATTENTION}/rollout", f"{tags.EMBEDDINGS}/positions"}
TINY = [
    *("--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--data.context_length=16"),
    *("--data.batch_size=2", "--data.tokenizer.kind=char", "--trainer.limit_val_batches=1", "--trainer.max_steps=2"),
    *("--trainer.val_check_interval=2", "--inspect.every=2", "--samples.every=1", "--model.sampling.max_new_tokens=3"),
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def fit(*words: str) -> int:
    return main(["fit", *TINY, *words], default_config=REPOSITORY / "configs" / "default.yaml")


def test_files_beside_a_csv_file():
    words = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs", "--trainer.logger.name=table"]
    assert fit(*words) == 0
    folder = Path("runs/table/version_0")
    assert "temperature" in (folder / "samples/step-1.md").read_text()
    assert "(B, H, T, D)" in (folder / "shapes/step-0.md").read_text()
    assert "parameters" in (folder / "preflight/step-0.md").read_text()
    assert (folder / "config.yaml").is_file()
    for picture in ("layer-0/step-0.png", "layer-0/step-2.png", "rollout/step-2.png"):
        assert Image.open(folder / "within-attention" / picture).width > 50
    before = (folder / "samples/step-2.md").read_bytes()
    assert fit(*words, "--ckpt_path=last", "--trainer.max_steps=3") == 0
    assert (folder / "samples/step-2.md").read_bytes() == before
    assert (folder / "samples/step-3.md").is_file(), "a resumed run goes on beside"


@pytest.mark.parametrize(
    ("task", "words", "files"),
    [
        (
            "translate",
            ["--model.transformer.n_layer=1", "--model.transformer.n_head=1", "--model.transformer.n_embd=4"],
            ["samples/step-1.md", "shapes/step-0.md", "within-attention/to-the-source-block-0/step-1.png"],
        ),
        ("word_vectors", ["--model.words.n_embd=4", "--data.corpus=story"], ["nearest-neighbours/step-1.md"]),
        (
            "instruct",
            ["--model.gpt.n_layer=1", "--model.gpt.n_head=1", "--model.gpt.n_embd=4", "--answers.max_new_tokens=2"],
            ["sample/step-0.md", "answers/step-1.md"],
        ),
        (
            "classify",
            [
                "--model.gpt.n_embd=4",
                "--model.gpt.n_head=1",
                "--data.validation_corpus=null",
                "--data.test_corpus=null",
            ],
            ["within-labels/confusion-matrix/step-1.png"],
        ),
    ],
)
def test_files_of_every_task(task, words, files):
    Path("pairs.tsv").write_text("a b\tc d\n" * 2 + "b a\td c\n" * 2)
    Path("records.json").write_text('[{"instruction": "a", "output": "b"}, {"instruction": "aa", "output": "b"}]')
    Path("texts.csv").write_text("text,label\n" + "".join(f"{'ab' * (n + 1)},{n % 2}\n" for n in range(20)))
    corpus = {"translate": "pairs.tsv", "instruct": "records.json", "classify": "texts.csv"}
    if task in corpus:
        words = [*words, f"--data.corpus={corpus[task]}", "--data.tokenizer.kind=char", "--data.context_length=200"]
        words += ["--data.validation_fraction=0.5", "--data.tokenizer.vocab_size=null"]
    always = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs", "--trainer.logger.name=table"]
    always += ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--data.batch_size=1", "--inspect.every=1"]
    default = REPOSITORY / "configs" / "default.yaml"
    assert main(["fit", f"--task={task}", *words, *always], default_config=default) == 0
    written = {str(path.relative_to("runs/table/version_0")) for path in Path("runs/table/version_0").rglob("*.*")}
    assert set(files) <= written


class Recorded:
    """Stands for the client of a logger: keeps what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def trainer_with(logger: Any) -> L.Trainer:
    return L.Trainer(accelerator="cpu", logger=logger, enable_checkpointing=False, enable_progress_bar=False)


def test_mlflow_gets_artifacts(monkeypatch):
    logger, client = object.__new__(MLFlowLogger), Recorded()
    monkeypatch.setattr(MLFlowLogger, "experiment", client)
    monkeypatch.setattr(MLFlowLogger, "run_id", "r1")
    monkeypatch.setattr(MLFlowLogger, "log_hyperparams", lambda _, settings: client.log_params(settings))
    (record,) = records_of(trainer_with(logger))
    record.text(tags.LENS, "a table", 3)
    record.image("attention/layer 0", Image.new("P", (4, 4)), 3)
    record.settings({"data.batch_size": 4})
    names = [(name, args[:1] + args[2:]) for name, args, _ in client.calls]
    assert names == [
        ("log_text", ("r1", "logit-lens/step-3.md")),
        ("log_image", ("r1", "attention/layer-0/step-3.png")),
        ("log_params", ({"data.batch_size": 4},)),
    ]


def test_comet_gets_texts_and_pictures_by_step(monkeypatch):
    logger, client = object.__new__(CometLogger), Recorded()
    monkeypatch.setattr(CometLogger, "experiment", client)
    (record,) = records_of(trainer_with(logger))
    record.text("samples", "a text", 3)
    record.image("attention/rollout", Image.new("P", (4, 4)), 3)
    assert [(name, kwargs["step"]) for name, _, kwargs in client.calls] == [("log_text", 3), ("log_image", 3)]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    trainer = trainer_with(CSVLogger(tmp_path))
    assert len(records_of(trainer)) == 1
    monkeypatch.setattr(type(trainer), "is_global_zero", False)
    assert records_of(trainer) == []


def test_weights_and_biases_offline(monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged: list[dict[str, Any]] = []
    settings: dict[str, Any] = {}
    log, update = wandb.Run.log, wandb.sdk.wandb_config.Config.update

    def keep(self: Any, values: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        logged.append(dict(values))
        log(self, values, *args, **kwargs)

    def keep_settings(self: Any, values: dict[str, Any], **kwargs: Any) -> None:
        settings.update(values)
        update(self, values, **kwargs)

    monkeypatch.setattr(wandb.Run, "log", keep)
    monkeypatch.setattr(wandb.sdk.wandb_config.Config, "update", keep_settings)
    words = ["--trainer.logger=WandbLogger", "--trainer.logger.project=plans", "--trainer.logger.offline=true"]
    assert fit(*words) == 0
    assert wandb.run is None, "the run has ended, and the next one of this process is another"
    for names, kind in ((TEXTS, wandb.Html), (PICTURES, wandb.Image)):
        for name in names:
            assert any(isinstance(values.get(name), kind) for values in logged), name
    steps = [values["trainer/global_step"] for values in logged if tags.SAMPLES in values]
    assert steps == [0, 1, 2]
    assert [values["trainer/global_step"] for values in logged if "validation/loss" in values] == [0, 2]
    assert settings["model.gpt.n_embd"] == 8
