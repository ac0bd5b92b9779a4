"""A small GPT in the manner of nanoGPT, for which there is no package."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_census.inputs import VOCABULARY


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.projection = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.expand, self.contract = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.dropout = 0.1

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.size()
        query, key, value = self.attention(self.norm1(x)).split(width, dim=2)
        split = (batch, length, self.heads, width // self.heads)
        query, key, value = (part.view(split).transpose(1, 2) for part in (query, key, value))
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        x = x + self.projection(y.transpose(1, 2).contiguous().view(batch, length, width))
        return x + F.dropout(self.contract(F.gelu(self.expand(self.norm2(x)))), self.dropout, self.training)


class _NanoGPT(nn.Module):
    def __init__(self, width: int, heads: int, depth: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList([_Block(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        self.tokens.weight = self.head.weight

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        length = ids.size(1)
        assert length <= self.context, f"a sequence of {length} is longer than {self.context}"
        x = self.tokens(ids) + self.positions(torch.arange(length, device=ids.device))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if targets is None:
            return self.head(x[:, [-1], :]), None
        logits = self.head(x)
        loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)
        return logits, loss


def nano_gpt(depth: int = 2) -> nn.Module:
    """A small GPT in the manner of nanoGPT: tied ends, the loss inside, attention by one map."""
    return _NanoGPT(width=32, heads=4, depth=depth, context=16)
