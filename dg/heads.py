"""Trainable heads: (features, time, class) of an extractor -> one logit per image.

On maps (pixels, classifier features) the head is the ADM encoder of `guided_diffusion`, on the pooled features of a score
network the `PooledHead` below. Both are called as `head(features, time, condition=class_labels)`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PooledHead(nn.Module):
    """Two-layer perceptron on pooled features, scaled and shifted by the noise embedding.

    feature_dims  dimensions of the pooled features of each encoder stage
    emb_dim       dimension of the score network's embedding
    num_classes   0 for an unconditional discriminator
    width         hidden units
    dropout       probability on the hidden units, in training
    """

    def __init__(self, feature_dims: list[int], emb_dim: int, num_classes: int = 0, width: int = 256,
                 dropout: float = 0.0):
        super().__init__()
        self.config = dict(feature_dims=list(feature_dims), emb_dim=emb_dim, num_classes=num_classes, width=width,
                           dropout=dropout)
        self.num_classes, self.dropout = num_classes, dropout
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for dim in feature_dims])  # stages differ in scale by decades
        self.enter = nn.Linear(sum(feature_dims), width)
        self.film = nn.Linear(emb_dim, 2 * width)
        self.label = nn.Linear(num_classes, width, bias=False) if num_classes else None
        self.hidden = nn.Linear(width, width)
        self.logit = nn.Linear(width, 1)
        nn.init.zeros_(self.logit.weight)  # the untrained log ratio is 0: guidance starts from none
        nn.init.zeros_(self.logit.bias)

    def forward(self, features: list[Tensor], time: Tensor, condition: Tensor | None = None) -> Tensor:
        """features each [N, D_i], time [N or 1, E], condition [N, K] one-hot -> logits [N, 1]."""
        h = self.enter(torch.cat([norm(f) for norm, f in zip(self.norms, features, strict=True)], dim=1))  # [N, width]
        scale, shift = self.film(time).chunk(2, dim=1)  # [N or 1, width] each
        h = h * (1 + scale) + shift
        if self.label is not None:
            h = h + self.label(condition.to(h.dtype))
        h = F.dropout(F.silu(h), self.dropout, self.training)
        h = F.dropout(F.silu(self.hidden(h)), self.dropout, self.training)
        return self.logit(h)
