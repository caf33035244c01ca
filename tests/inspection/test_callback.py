"""A run shows what happens inside it, and is the same run."""

import hashlib
import logging
import math
import re
import time

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from test_probe import make

from llm.config import GPTConfig, OptimConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.errors import ConfigError, TrainingError
from llm.inspection import Inspection
from llm.inspection import callback as callback_module
from llm.inspection.features import DEFAULT_FEATURES, OF_A_STEP
from llm.inspection.writers import TensorBoard
from llm.tasks import LanguageModel
from llm.training.throughput import side_work_seconds

STEPS = 6


class Record(L.Callback):
    """Keeps the loss of every step and the random state after it."""

    def __init__(self):
        self.losses, self.states = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        self.states.append(hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest())
        self.states.append(hashlib.sha256(repr(np.random.get_state()).encode()).hexdigest())


@pytest.fixture
def run(tmp_path, corpus):
    """Trains a tiny model with an Inspection, and gives the run folder, what was recorded, and the model."""

    def train(inspection, name="run", callbacks=(), steps=STEPS, poison=None):
        L.seed_everything(7, verbose=False)
        data = TextDataModule(
            corpus=str(corpus),
            tokenizer=TokenizerConfig(kind="char"),
            context_length=16,
            stride=5,
            batch_size=2,
            cache_dir=str(tmp_path / "cache"),
        )
        gpt = GPTConfig(vocab_size=data.vocab_size, context_length=16, n_layer=2, n_head=2, n_embd=8, dropout=0.2)
        module, record = LanguageModel(gpt, OptimConfig(warmup_steps=2)), Record()
        if poison is not None:
            poison(module)
        trainer = L.Trainer(
            accelerator="cpu",
            logger=TensorBoardLogger(str(tmp_path), name=name, default_hp_metric=False),
            max_steps=steps,
            callbacks=[record, *([inspection] if inspection else []), *callbacks],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            log_every_n_steps=1,
        )
        trainer.fit(module, data)
        return tmp_path / name / "version_0", record, module

    return train


def events(folder):
    accumulator = EventAccumulator(str(folder), {"images": 0, "tensors": 0, "scalars": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def steps_of(accumulator, kind, tag):
    return [event.step for event in getattr(accumulator, kind)(tag)]


def test_one_chart_has_the_curves_of_all_heads(run):
    folder, _, _ = run(Inspection(every=100, features=["head_curves"]))
    found = events(folder)
    summary = found.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    groups = Layout.FromString(summary).category
    charts = {chart.title: list(chart.multiline.tag) for group in groups for chart in group.chart}
    tags = [tag for tag in found.Tags()["scalars"] if re.match(charts["previous token"][0], tag)]
    assert sorted(tags) == [
        f"within heads/previous token/layer {layer} head {head}" for layer in (0, 1) for head in (0, 1)
    ]


@pytest.mark.parametrize("settings", [{"every": 0}, {"every": 100, "features": ["maps"]}])
def test_there_is_no_chart_without_curves(run, settings):
    folder, _, _ = run(Inspection(**settings))
    assert "custom_scalars__config__" not in events(folder).Tags()["tensors"]


def test_everything_that_a_run_leaves(run):
    folder, _, module = run(Inspection(every=2, tokens=10))
    found = events(folder)
    tags = found.Tags()
    looks = [0, 2, 4, 6]
    for tag in ("attention/layer 0", "attention/layer 1", "attention/rollout", "attention/scores of all heads"):
        assert steps_of(found, "Images", f"within {tag}") == looks
    assert steps_of(found, "Images", "within embeddings/positions") == looks
    for score in ("entropy", "sink", "previous token", "duplicate token", "induction"):
        curves = [tag for tag in tags["scalars"] if tag.startswith(f"within heads/{score}/")]
        assert curves == [f"within heads/{score}/layer {layer}" for layer in (0, 1)]
        assert all(steps_of(found, "Scalars", curve) == looks for curve in curves)
    for tag in ("5 logit lens", "6 nearest neighbours"):
        assert steps_of(found, "Tensors", f"{tag}/text_summary") == looks
    assert steps_of(found, "Tensors", "2 shapes/text_summary") == [0]
    for layer in ("token embeddings", "positional embeddings", "block 0", "block 1", "final norm"):
        for number in ("norm", "update to weight ratio"):
            assert steps_of(found, "Scalars", f"within gradients/{number}/{layer}") == looks[1:]
        assert steps_of(found, "Histograms", f"within weights/{layer}") == looks[1:]
    assert [event.value for event in found.Scalars("within gradients/non-finite values")] == [0, 0, 0]
    assert not [tag for tag in tags["scalars"] if tag.startswith("within gradients/non-finite values/")]
    assert "layer 0.png" not in tags["images"]

    assert "| block 0-1 / weights | (B, H, T, T) | 2x2x16x16 | float32 | 8,192 |" in (folder / "shapes.md").read_text()
    assert [path.name for path in sorted((folder / "attention").iterdir())] == ["layer-0.png", "layer-1.png"]
    frames = [*ImageSequence.Iterator(Image.open(folder / "attention.gif"))]
    assert len(frames) == len(looks)
    page = (folder / "attention.html").read_text(encoding="utf-8")
    assert "Attention after 6 steps" in page
    vocab_size = module.gpt.config.vocab_size
    labels = [*folder.glob("00006/*/metadata.tsv")]
    shown = vocab_size - 1  # no token for what is unknown is in the training text
    assert [path.parent.name for path in labels] == [f"token-embeddings-{shown}-of-{vocab_size}"]
    assert len(labels[0].read_text(encoding="utf-8").removesuffix("\n").split("\n")) == shown  # "\n" is one of them
    vectors = (labels[0].parent / "tensors.tsv").read_text().splitlines()
    assert len(vectors) == shown


def test_one_head_in_large_and_svg_beside_png(run):
    folder, _, _ = run(Inspection(every=6, features=["maps"], head="1.0", svg=True))
    small, large = (events(folder).Images(f"within attention/layer 1{head}")[-1] for head in ("", " head 0"))
    assert large.height > 1.5 * small.height
    names = ("layer-0", "layer-1", "layer-1-head-0")
    expected = [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert sorted(path.name for path in (folder / "attention").iterdir()) == sorted(expected)
    assert (folder / "attention" / "layer-1-head-0.svg").read_text(encoding="utf-8").count(">head ") == 1


def test_a_head_that_the_model_has_not_is_refused_before_the_run(run):
    with pytest.raises(ConfigError, match=r"inspect\.head 1\.2: there is no head 2; this model has 2"):
        run(Inspection(head="1.2"))


def test_the_images_in_tensorboard_are_pictures(run):
    folder, _, _ = run(Inspection(every=3, features=["maps"]))
    event = events(folder).Images("within attention/layer 0")[-1]
    (folder / "out.png").write_bytes(event.encoded_image_string)
    image = Image.open(folder / "out.png")
    assert image.size == (event.width, event.height)
    assert (folder / "attention" / "layer-0.png").read_bytes() == event.encoded_image_string


def test_the_run_is_bit_for_bit_the_same(run):
    _, off, plain = run(None, "off")
    assert len(off.losses) == STEPS
    for every in (0, 1, 2, 5, None):
        _, on, module = run(Inspection(every=every), f"every-{every}")
        assert on.losses == off.losses
        assert on.states == off.states
        for name, parameter in plain.named_parameters():
            assert torch.equal(parameter, module.get_parameter(name)), name


def test_the_same_seed_gives_the_same_bytes(run):
    folders = [run(Inspection(every=2), name)[0] for name in ("first", "second")]
    names = ["attention.html", "attention.gif", "attention/layer-0.png", "attention/layer-1.png", "shapes.md"]
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    images = [
        {tag: [event.encoded_image_string for event in found.Images(tag)] for tag in found.Tags()["images"]}
        for found in map(events, folders)
    ]
    assert images[0] == images[1]


def test_nothing_happens_between_looks(run, monkeypatch):
    looked, measured = [], []
    capture, flow = callback_module.capture, callback_module.GradientFlow
    monkeypatch.setattr(callback_module, "capture", lambda *args: looked.append(1) or capture(*args))
    monkeypatch.setattr(callback_module, "GradientFlow", lambda *args: measured.append(1) or flow(*args))
    counts = []

    class Count(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            counts.append((len(looked), len(measured)))
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in pl_module.gpt.modules())

    run(Inspection(every=3), callbacks=[Count()])
    assert counts == [(1, 0), (1, 0), (2, 1), (2, 1), (2, 1), (3, 2)]


def test_looking_is_not_training_time(run, monkeypatch):
    capture, trainers = callback_module.capture, []

    class Remember(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            trainers.append(trainer)

    def slow(model, ids):
        time.sleep(0.05)
        return capture(model, ids)

    monkeypatch.setattr(callback_module, "capture", slow)
    run(Inspection(every=2), callbacks=[Remember()])
    looks = 5  # before training, at steps 2, 4 and 6, and for the page
    assert side_work_seconds(trainers[0]) >= looks * 0.05


@pytest.mark.parametrize("broken", ["capture", "GradientFlow"])
def test_an_error_inside_is_one_line_and_training_goes_on(run, monkeypatch, caplog, broken):
    def fail(*_args, **_kwargs):
        raise RuntimeError("out of everything\nwith details")

    monkeypatch.setattr(callback_module, broken, fail)
    with caplog.at_level(logging.WARNING):
        _, record, _ = run(Inspection(every=1))
    assert len(record.losses) == STEPS
    what = {"capture": "attention maps", "GradientFlow": "gradients"}[broken]
    assert [r.getMessage() for r in caplog.records] == [f"no {what} in this run: out of everything"]


@pytest.mark.parametrize("feature", sorted({*DEFAULT_FEATURES} - OF_A_STEP - {"film", "page"}))
def test_a_feature_that_fails_takes_no_other_along(run, monkeypatch, caplog, feature):
    def fail(*_args, **_kwargs):
        raise ValueError("broken")

    monkeypatch.setattr(TensorBoard, feature, fail)
    with caplog.at_level(logging.WARNING):
        folder, record, _ = run(Inspection(every=3))
    assert len(record.losses) == STEPS
    assert [r.getMessage() for r in caplog.records] == [f"no {feature} in this run: broken"]
    assert (folder / "attention.html").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no attention maps in this run: the text to inspect is empty"),
        ("Ж", "no attention maps in this run: unknown character 'Ж'"),
        ("The cat sat. " * 9, "inspection: the first 16 of 117 tokens are shown"),
    ],
)
def test_a_text_that_can_not_be_shown_is_a_line(run, caplog, text, message):
    with caplog.at_level(logging.WARNING):
        folder, record, _ = run(Inspection(text=text))
    assert len(record.losses) == STEPS
    assert [r.getMessage()[: len(message)] for r in caplog.records] == [message]
    assert (folder / "attention.html").is_file() == message.startswith("inspection")


def test_one_place_to_switch(run):
    folder, _, _ = run(Inspection(features=["scores"], every=2))
    tags = events(folder).Tags()
    assert tags["images"] == ["within attention/scores of all heads"]
    assert not tags["histograms"]
    assert not [tag for tag in tags["scalars"] if tag.startswith("within gradients/")]
    assert [tag for tag in tags["scalars"] if tag.startswith("within heads/")]
    assert [path.name for path in folder.iterdir() if "events" not in path.name] == ["hparams.yaml"]
    folder, _, _ = run(Inspection(every=0), "never")
    assert not [tag for tag in events(folder).Tags()["scalars"] if tag.startswith("within ")]
    assert (folder / "shapes.md").is_file()


def test_the_default_is_a_handful_of_looks(run):
    folder, _, _ = run(Inspection(features=["maps"]), steps=20)
    assert steps_of(events(folder), "Images", "within attention/layer 0") == [0, 6, 12, 18, 20]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 0}, "inspect.tokens must be at least 1, got 0"),
        ({"every": -1}, "every must be at least 0 steps, got -1"),
        ({"projector_tokens": 0}, "inspect.projector_tokens must be at least 1"),
        ({"head": "3"}, "inspect.head must be layer and head, such as 0.1, got '3'"),
        ({"features": ["entropy"]}, "inspect.features has no entropy; there are shapes, maps"),
    ],
)
def test_settings_that_can_not_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        Inspection(**settings)


def test_gradients_that_are_no_numbers_are_named_by_layer(run, caplog, tmp_path):
    def poison(module):
        weight = module.gpt.blocks[1].attention.qkv.weight
        calls = []

        def spoil(gradient):
            calls.append(1)
            if len(calls) == 3:
                gradient = gradient.clone()
                gradient[0, :2] = math.nan
            return gradient

        weight.register_hook(spoil)

    with caplog.at_level(logging.WARNING), pytest.raises(TrainingError):
        run(Inspection(every=100), poison=poison)
    line = next(r.getMessage() for r in caplog.records if r.getMessage().startswith("gradients of step 2"))
    assert "block 1                  norm nan          2 non-finite" in line
    found = events(tmp_path / "run" / "version_0")
    tag = "within gradients/non-finite values"
    counts = {name: found.Scalars(name)[-1].value for name in found.Tags()["scalars"] if name.startswith(tag)}
    assert counts == {tag: 2, f"{tag}/block 1": 2}
    assert (tmp_path / "run" / "version_0" / "attention.html").is_file()  # the weights are still those of step 2


def test_numbers_that_are_none_never_break_a_histogram(tiny, tmp_path):
    logger = TensorBoardLogger(str(tmp_path))
    model = make(tiny)
    model(torch.arange(8)[None]).sum().backward()
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight.grad.fill_(math.nan)
        for parameter in model.blocks[1].parameters():
            parameter.fill_(math.nan)
    TensorBoard([logger.experiment], 1).histograms(model)
    logger.experiment.flush()
    tags = events(logger.log_dir).Tags()["histograms"]
    assert "within weights/block 0" in tags
    assert "within weights/block 1" not in tags
    assert "within gradients/block 0" in tags  # what else the layer has is finite


def test_an_attention_that_sees_the_future_is_warned_of(tmp_path, corpus, caplog):
    data = TextDataModule(str(corpus), TokenizerConfig(kind="char"), 8, 8, 2, cache_dir=str(tmp_path))
    gpt = GPTConfig(vocab_size=data.vocab_size, context_length=8, n_layer=1, n_embd=4, attention="self")
    trainer = L.Trainer(
        accelerator="cpu", max_steps=1, logger=False, callbacks=[Inspection()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        trainer.fit(LanguageModel(gpt), data)
    assert "this attention is not causal" in caplog.text


def test_gradients_and_histograms_switch_apart(run):
    folder, _, _ = run(Inspection(features=["histograms"], every=2))
    tags = events(folder).Tags()
    assert tags["histograms"]
    assert not [tag for tag in tags["scalars"] if tag.startswith("within gradients/")]
    folder, _, _ = run(Inspection(features=["gradients"], every=2), "gradients")
    tags = events(folder).Tags()
    assert not tags["histograms"]
    assert [tag for tag in tags["scalars"] if tag.startswith("within gradients/")]


def test_no_text_is_run_where_no_feature_needs_it(run, monkeypatch):
    monkeypatch.setattr(callback_module, "capture", lambda *_: pytest.fail("looked"))
    _, record, _ = run(Inspection(features=["gradients", "histograms", "shapes"], every=1))
    assert len(record.losses) == STEPS


def test_data_that_can_not_be_read_at_the_end_is_a_line(run, monkeypatch, caplog):
    monkeypatch.setattr(callback_module, "training_tokens", lambda *_: 1 / 0)
    with caplog.at_level(logging.WARNING):
        _, record, _ = run(Inspection(every=3))
    assert len(record.losses) == STEPS
    assert [r.getMessage() for r in caplog.records] == [
        f"no {feature} in this run: division by zero" for feature in ("neighbours", "projector")
    ]
