"""The vision transformer of DINOv2 (Oquab et al. 2023), built here so that its published weights
can be used without running the code that they come with. Tensors are named as in their files."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 14
TRAINED_GRID = 37  # patches along a side of the images of 518 pixels that ended the training
# The published interpolation of positions adds this to the number of patches.
OFFSET = 0.1
# Width, depth, heads by size of the model; the largest has a gated network in its blocks.
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "g": (1536, 40, 24)}
GATED = "g"


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [N, T, 3, heads, width / heads]
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class GatedPerceptron(nn.Module):
    """SwiGLU (Shazeer 2020) of about as many weights as the plain one."""

    def __init__(self, width: int):
        super().__init__()
        inner = (4 * width * 2 // 3 + 7) // 8 * 8
        self.w12, self.w3 = nn.Linear(width, 2 * inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Scale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, width: int, heads: int, gated: bool):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = Attention(width, heads)
        self.mlp = GatedPerceptron(width) if gated else Perceptron(width)
        self.ls1, self.ls2 = Scale(width), Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # [N, T, width]


class DINOv2(nn.Module):
    """x [N, 3, 14 h, 14 w], normalised -> the class token after the last norm, [N, width].

    size  of `SIZES`
    """

    def __init__(self, size: str):
        super().__init__()
        width, depth, heads = SIZES[size]
        self.patch_embed = PatchEmbedding(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_GRID**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of the training alone
        self.blocks = nn.ModuleList([Block(width, heads, size == GATED) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[2] // PATCH, x.shape[3] // PATCH
        tokens = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = tokens + self._positions(rows, columns)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, 0])

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Embedding of the positions of a grid, [1, 1 + rows * columns, width]."""
        if (rows, columns) == (TRAINED_GRID, TRAINED_GRID):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (TRAINED_GRID, TRAINED_GRID))
        scale = [(side + OFFSET) / TRAINED_GRID for side in (rows, columns)]
        grid = F.interpolate(grid.permute(0, 3, 1, 2), scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
