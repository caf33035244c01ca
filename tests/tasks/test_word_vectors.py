"""Word vectors as a task: loss, determinism, what is learned, resuming, and what a run leaves."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import QUIET

from llm.cli.main import main
from llm.config import OptimConfig, TokenizerConfig, WordVectorsConfig
from llm.data import WordVectorsDataModule
from llm.data.contexts import ContextBatch, contexts_of
from llm.errors import ConfigError, DataError
from llm.inspection import tags
from llm.pretrained.vectors import read_vectors
from llm.runtime.shipped import DATA, DEFAULT_CONFIG
from llm.tasks import WordVectorsModule
from llm.training.loss import Prediction
from llm.training.metrics import SplitMetrics

RUN = ["fit", "--task=word_vectors", "--model.words.n_embd=6", "--data.batch_size=4", "--data.context_length=32"]
RUN += ["--trainer.log_every_n_steps=1", "--trainer.val_check_interval=2", "--trainer.logger.init_args.version=run"]


def text_of_two_topics():
    """Words of two topics that never meet, in sentences of one topic each; frequent words are in both."""
    random = np.random.default_rng(0)
    topics = [["king", "queen", "crown", "throne", "castle"], ["salt", "pepper", "bread", "butter", "cheese"]]
    sentences = []
    for _ in range(600):
        topic = topics[random.integers(2)]
        sentences.append(" ".join(f"the {topic[random.integers(5)]}" for _ in range(16)))
    return ". ".join(sentences)


def data_of(folder, text, **options):
    corpus = folder / "corpus.txt"
    corpus.write_text(text)
    defaults = {"context_length": 32, "batch_size": 16, "cache_dir": str(folder / "cache"), "n_noise": 16}
    return WordVectorsDataModule(corpus=str(corpus), **{**defaults, **options})


def batch_of(ids, reach, lengths, noise):
    contexts = contexts_of(np.array(reach), np.array(lengths))
    return ContextBatch(*(torch.tensor(part) for part in (ids, ids, lengths, *contexts, noise)))


@pytest.mark.parametrize("objective", ["skip_gram", "cbow"])
def test_the_loss_is_that_of_the_paper_pair_by_pair(objective):
    torch.manual_seed(0)
    module = WordVectorsModule(WordVectorsConfig(9, 5, objective, negatives=3))
    torch.nn.init.normal_(module.words.predicted.weight)
    torch.nn.init.normal_(module.words.token.weight)
    reach = [[1, 2, 1, 2], [2, 1, 1, 1]]
    batch = batch_of([[0, 1, 2, 3], [4, 5, 0, 0]], reach, [4, 2], [[7, 8, 1, 5], [0, 2, 2, 3]])
    found = module.loss_of(module.hidden_states(batch), batch, with_accuracy=True, scale=0.5)
    inputs, outputs = module.words.token.weight.detach(), module.words.predicted.weight.detach()
    loss = pairs = correct = 0
    for row in range(2):
        for i in range(int(batch.lengths[row])):
            around = [j for j in range(int(batch.lengths[row])) if j != i and abs(i - j) <= reach[row][i]]
            words = batch.inputs[row]
            examples = [(inputs[words[i]], words[j]) for j in around]
            if objective == "cbow":
                examples = [(inputs[words[around]].mean(0), words[i])]
            for vector, word in examples:
                logit = vector @ outputs[word]
                noise = [F.logsigmoid(-vector @ outputs[n]) for n in batch.noise[row]]
                loss -= F.logsigmoid(logit) + 3 / 4 * sum(noise)  # the four weigh as the three that a pair has
                pairs, correct = pairs + 1, correct + int(logit > 0)
    assert int(found.n_tokens) == pairs
    assert int(found.n_correct) == correct
    torch.testing.assert_close(found.loss.detach(), 0.5 * loss)


@pytest.mark.parametrize("objective", ["skip_gram", "cbow"])
def test_what_is_in_the_padding_changes_nothing(objective):
    torch.manual_seed(0)
    module = WordVectorsModule(WordVectorsConfig(9, 5, objective))
    torch.nn.init.normal_(module.words.predicted.weight)
    losses = []
    for pad in (0, 7):
        batch = batch_of([[0, 1, 2, pad], [4, pad, pad, pad]], [[2] * 4] * 2, [3, 1], [[7, 8], [0, 2]])
        losses.append(module.loss_of(module.hidden_states(batch), batch).loss)
    assert losses[0] == losses[1]
    empty = batch_of([[0]], [[1]], [0], [[7, 8]])
    found = module.loss_of(module.hidden_states(empty), empty)
    assert (found.loss.item(), int(found.n_tokens)) == (0, 0)


@pytest.mark.parametrize("objective", ["skip_gram", "cbow"])
def test_words_of_one_topic_come_together(tmp_path, objective):
    data = data_of(tmp_path, text_of_two_topics(), window=2, sample=0.01)
    torch.manual_seed(0)
    optim = OptimConfig(learning_rate=0.05, weight_decay=0.0)
    module = WordVectorsModule(WordVectorsConfig(data.vocab_size, 8, objective), optim)
    L.Trainer(max_epochs=6, limit_val_batches=0, **QUIET).fit(module, data)
    unit = F.normalize(module.words.token.weight.detach(), dim=-1)

    def cosine(first, second):
        first, second = (data.tokenizer.encode(word)[0] for word in (first, second))
        return float(unit[first] @ unit[second])

    within = [cosine("king", "queen"), cosine("crown", "castle"), cosine("bread", "butter"), cosine("salt", "cheese")]
    between = [cosine("king", "bread"), cosine("crown", "salt"), cosine("butter", "castle")]
    assert min(within) > max(between) + 0.3


def test_the_vocabulary_is_in_the_order_of_frequency_without_rare_words(tmp_path):
    data = data_of(tmp_path, "The cat, the dog; THE cat's 2 cats " * 9 + "once twice once", min_count=2)
    assert data.tokenizer.vocabulary[:2] == ("the", "cat")
    assert set(data.tokenizer.vocabulary) == {"the", "cat", "dog", "s", "cats", "once"}
    assert data.counts[data.tokenizer.encode("twice")].tolist() == [0], "an unknown word is dropped"
    other = data_of(tmp_path, "a b c a b a", tokenizer=TokenizerConfig("char"), context_length=2, min_count=2)
    kept = {other.tokenizer.decode([token]) for token in other.counts.nonzero()[0]}
    assert "c" not in kept
    assert "a" in kept
    with pytest.raises(DataError, match="occurs 50 times"):
        data_of(tmp_path, "a few words", min_count=50)
    with pytest.raises(ConfigError, match="sample"):
        data_of(tmp_path, "a few words", sample=-1.0)
    with pytest.raises(ConfigError, match="context_length must be at least 2, got 1"):
        data_of(tmp_path, "a few words", context_length=1)


def test_a_text_too_poor_for_vectors_is_said_before_there_is_a_run(in_a_folder, capsys):
    letters = "abcdefghijklmnopqrst"
    rare = " ".join(f"only{first}{second}" for first in letters for second in letters)
    texts = {
        "no word occurs often enough to learn a vector": f"{rare} {'the cat ' * 20}",
        "the validation text has none of the words that are learned": f"{'the cat sat on the mat ' * 300} {rare}",
        "'word' is the only word that occurs often enough": "word " * 900,
    }
    for message, text in texts.items():
        Path("poor.txt").write_text(text)
        assert main([*RUN, "--trainer.max_steps=2", "--data.corpus=poor.txt", "--data.context_length=8"]) == 1
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
        assert not Path("runs").exists()


def test_a_sum_of_losses_counts_beyond_the_end_of_float32():
    metrics = SplitMetrics()
    metrics.begin(torch.device("cpu"))
    one, many = torch.tensor(1.0), torch.tensor(2**24)
    metrics.update(Prediction(many.float(), many, many))
    for _ in range(3):  # 2^24 + 1 is 2^24 in float32
        metrics.update(Prediction(one, one, one))
    assert metrics.sums.tolist() == [2**24 + 3] * 3


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def test_a_run_repeats_itself_and_resumes_bit_for_bit(in_a_folder, capsys):
    def weights(name, *words):
        assert main([*RUN, f"--trainer.logger.init_args.name={name}", *words]) == 0
        return torch.load(f"runs/{name}/run/checkpoints/last.ckpt", weights_only=True)["state_dict"]

    stable = "--model.optim.schedule=warmup_stable_decay", "--model.optim.decay_fraction=0"
    whole = weights("whole", "--trainer.max_steps=9", *stable)
    again = weights("again", "--trainer.max_steps=9", *stable, "--inspect.words=[quux]")
    assert "no neighbours in this run: no word of inspect.words is in the vocabulary: quux" in capsys.readouterr().err
    weights("stopped", "--trainer.max_steps=5", *stable)
    last = f"--ckpt_path={in_a_folder / 'runs/stopped/run/checkpoints/last.ckpt'}"
    resumed = weights("resumed", "--trainer.max_steps=9", *stable, last)
    for other in (again, resumed):
        assert all(torch.equal(whole[name], other[name]) for name in whole)


def test_a_run_of_the_shipped_configuration_shows_its_vectors(in_a_folder, capsys):
    words = ["--inspect.every=1", "--trainer.max_steps=3"]
    assert main([*RUN, *words, "--inspect.words=[pounds,Bishop,quux]"], DEFAULT_CONFIG) == 0
    assert "neighbours --ckpt" in capsys.readouterr().err
    folder = next(Path("runs").rglob("checkpoints")).parent
    board = EventAccumulator(str(folder), {"tensors": 0, "scalars": 0}).Reload()
    texts = board.Tensors(f"{tags.NEIGHBOURS}/text_summary")
    assert [event.step for event in texts] == [0, 1, 2, 3]
    shown = texts[-1].tensor_proto.string_val[0].decode()
    assert "| pounds |" in shown
    assert "not in this vocabulary: quux" in shown
    assert "validation/loss" in board.Tags()["scalars"]
    assert not any("perplexity" in tag or "accuracy" in tag for tag in board.Tags()["scalars"])
    vectors = read_vectors(folder / "checkpoints" / "last.ckpt")
    (labels,) = folder.rglob("metadata.tsv")  # of the projector
    shown = labels.read_text().split()
    text = (DATA / "story.txt").read_text().lower()
    assert len(shown) == len(set(shown)) > 200
    assert set(shown) <= set(vectors.names)
    assert all(word in text for word in shown), "words of the text, and no special token"
    assert vectors.table.shape == (len(vectors.names), 6)
    assert vectors.find("pounds") is not None
    assert main(["validate", "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]) == 0


def test_looking_changes_no_bit(in_a_folder):
    states = []
    for name, every in (("seen", 1), ("unseen", 0)):
        words = [f"--trainer.logger.init_args.name={name}", f"--inspect.every={every}", "--trainer.max_steps=4"]
        assert main([*RUN, *words]) == 0
        states.append(torch.load(f"runs/{name}/run/checkpoints/last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
