import yaml

from llm.cli.save_config import hyperparameters


def test_hyperparameters_are_what_a_result_depends_on():
    settings = yaml.safe_load("""
        seed_everything: 1
        trainer: {max_steps: 10}
        data:
          corpus: story
          batch_size: 4
          cache_dir: data/cache
          num_workers: 2
          tokenizer: {kind: null}
          prompts: null
        model:
          gpt: {n_layer: 2, dropout: 0.0}
          optim: {kind: adamw}
          sampling: {seed: 1}
          compile: true
          pretrained: null
    """)
    assert hyperparameters(settings) == {
        "data.corpus": "story",
        "data.batch_size": 4,
        "model.gpt.n_layer": 2,
        "model.gpt.dropout": 0.0,
        "model.optim.kind": "adamw",
    }
