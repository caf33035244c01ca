"""The last rows of a frozen vocabulary, trained on their own: those of tokens that are new, such as a chat template's.

Token embedding and head keep their tables and the names of these; `token_rows` (n, C) joins them, and takes the place
of the last n rows. Where both share one table, they share the rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.errors import ConfigError
from llm.model.embeddings import Embeddings, Head

ROWS = "token_rows"
"""The name of the rows in a module."""


class EmbeddingWithRows(nn.Embedding):
    """A frozen token embedding whose last rows are trained.

    Args:
        base: the embedding, whose table is used, not copied.
        first: the token id of the first row that is trained.
        rows: (n, C) those.
    """

    def __init__(self, base: nn.Embedding, first: int, rows: nn.Parameter) -> None:
        super().__init__(base.num_embeddings, base.embedding_dim, device="meta")
        self.weight, self.first, self.token_rows = base.weight, first, rows

    def forward(self, ids: Tensor) -> Tensor:
        """`(B, T)` -> `(B, T, C)`."""
        new = F.embedding((ids - self.first).clamp(min=0), self.token_rows)  # (B, T) -> (B, T, C)
        return torch.where((ids >= self.first)[..., None], new, super().forward(ids))


class HeadWithRows(Head):
    """A frozen head whose last rows are trained.

    Args:
        base: the head, whose weights are used, not copied.
        first: the token id of the first row that is trained.
        rows: (n, C) those.
    """

    def __init__(self, base: Head, first: int, rows: nn.Parameter) -> None:
        nn.Linear.__init__(self, base.in_features, base.out_features, bias=False, device="meta")
        self.weight, self.first, self.token_rows = base.weight, first, rows
        self.softcap = base.softcap

    @property
    def table(self) -> Tensor:
        """The weights with those rows in them, (padded V, C): a copy."""
        after = self.weight[self.first + len(self.token_rows) :]
        return torch.cat([self.weight[: self.first], self.token_rows.to(self.weight.dtype), after])

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, C)` -> logits `(B, T, V)`."""
        old = F.linear(x, self.weight[: self.first])  # (B, T, C) -> (B, T, V - n)
        new = F.linear(x, self.token_rows)  # (B, T, C) -> (B, T, n)
        return self.capped(torch.cat([old, new], dim=-1))  # (B, T, V - n), (B, T, n) -> (B, T, V)


def add_token_rows(network: nn.Module, n_rows: int) -> None:
    """Let the last rows of token embedding and head be trained, whatever else of them is frozen.

    Args:
        network: changed in place.
        n_rows: how many; none for 0.

    Raises:
        ConfigError: the network has no token embedding and head of one vocabulary without biases, or fewer tokens.
    """
    if not n_rows:
        return
    embeddings, head = getattr(network, "embeddings", None), getattr(network, "head", None)
    if not isinstance(embeddings, Embeddings) or not isinstance(head, Head) or head.bias is not None:
        raise ConfigError("model.lora.token_rows is for networks that predict the next token")
    if n_rows > head.out_features:
        raise ConfigError(f"model.lora.token_rows must be at most the {head.out_features} tokens, got {n_rows}")
    first, is_shared = head.out_features - n_rows, head.weight is embeddings.token.weight
    rows = _rows(embeddings.token.weight, first, n_rows)
    embeddings.token = EmbeddingWithRows(embeddings.token, first, rows)
    network.head = HeadWithRows(head, first, rows if is_shared else _rows(head.weight, first, n_rows))


def with_token_rows(weights: dict[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    """The weights of a network with such rows, by name, as those of one without: each in its place in the table."""
    plain = {name: tensor for name, tensor in weights.items() if not name.endswith(f".{ROWS}")}
    tables: dict[int, Tensor] = {}  # by where they were; a shared one stays shared
    for name in weights.keys() - plain.keys():
        table, rows = f"{name.removesuffix(ROWS)}weight", weights[name]
        place = plain[table].data_ptr()
        plain[table] = tables.setdefault(place, plain[table].to(rows.dtype, copy=True))
        plain[table][vocab_size - len(rows) : vocab_size] = rows
    return plain


def _rows(table: Tensor, first: int, n_rows: int) -> nn.Parameter:
    return nn.Parameter(table.detach()[first : first + n_rows].clone())
