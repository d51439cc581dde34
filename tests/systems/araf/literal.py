"""ARAF's published network written out literally: every dead layer computed, every channel copied, all products dense.

Parameters carry the published names, so that its ``state_dict()`` is what the published network saves. For tests and
``benchmarks/araf.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PreNorm(nn.Module):
    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, width), nn.Dropout(0.1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.to_qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        alone = heads == 1 and head_dim == width
        self.to_out = nn.Identity() if alone else nn.Sequential(nn.Linear(heads * head_dim, width), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, n, _ = x.shape
        q, k, v = (y.view(b, n, self.heads, self.head_dim).transpose(1, 2) for y in self.to_qkv(x).chunk(3, dim=-1))
        weights = torch.softmax(q @ k.transpose(2, 3) * self.head_dim**-0.5, dim=-1)
        return self.to_out((weights @ v).transpose(1, 2).reshape(b, n, -1)), weights


class Transformer(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [PreNorm(width, SelfAttention(width, heads, head_dim)), PreNorm(width, FeedForward(width, hidden))]
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for attention, feed_forward in self.layers:
            x1 = x + feed_forward(x)
            a, weights = attention(x1)
            x3 = x1 + a  # never becomes x
        return x3, weights


class LiteralImageEncoder(nn.Module):
    def __init__(
        self,
        size: tuple[int, int] = (256, 256),
        patch: tuple[int, int] = (16, 16),
        width: int = 1024,
        depth: int = 6,
        heads: int = 16,
        head_dim: int = 64,
        hidden: int = 2048,
        pool: str = "cls",
        outputs: int = 512,
    ) -> None:
        super().__init__()
        self.patch, self.pool = patch, pool
        count = (size[0] // patch[0]) * (size[1] // patch[1])
        self.pos_embedding = nn.Parameter(torch.randn(1, count + 1, width))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.to_patch_embedding = nn.Sequential(nn.Identity(), nn.Linear(3 * patch[0] * patch[1], width))
        self.dropout = nn.Dropout(0.1)
        self.transformer = Transformer(width, depth, heads, head_dim, hidden)
        self.to_fusion = nn.Sequential(nn.Linear(width, outputs), nn.ReLU())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        (p1, p2), patches = self.patch, []
        for top in range(0, image.shape[2], p1):
            for left in range(0, image.shape[3], p2):
                patches.append(image[:, :, top : top + p1, left : left + p2].permute(0, 2, 3, 1).flatten(1))
        x = self.to_patch_embedding(torch.stack(patches, dim=1))
        x = torch.cat([self.cls_token.repeat(len(x), 1, 1), x], dim=1)
        x, weights = self.transformer(self.dropout(x + self.pos_embedding))
        return self.to_fusion(x.mean(dim=1) if self.pool == "mean" else x[:, 0]), weights


class LiteralResidual(nn.Module):
    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, outputs, 3, padding=1, stride=stride)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, padding=1)
        self.conv3 = nn.Conv1d(channels, outputs, 1, stride=stride) if stride > 1 else None
        self.bn1, self.bn2 = nn.BatchNorm1d(outputs), nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + (self.conv3(x) if self.conv3 is not None else x))


class LiteralResNet(nn.Module):
    def __init__(self, outputs: int = 512) -> None:
        super().__init__()
        self.net2_1 = nn.Sequential(
            nn.Conv1d(1, 64, 7, stride=2, padding=3), nn.BatchNorm1d(64), nn.ReLU(), nn.MaxPool1d(3, 2, 1)
        )
        for number, width in enumerate((64, 128, 256, 512, 1024), start=2):
            before, stride = (width, 1) if width == 64 else (width // 2, 2)
            units = nn.Sequential(LiteralResidual(before, width, stride), LiteralResidual(width, width, 1))
            setattr(self, f"net2_{number}", units)
        self.net2_7 = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten())
        self.linear = nn.Sequential(nn.Linear(1024, 4096), nn.Dropout(0.5), nn.Linear(4096, outputs))

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, 8):
            x = getattr(self, f"net2_{number}")(x)
        return self.linear(x)


class LiteralNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2), keepdim=True)
        variance = x.var(dim=(1, 2), keepdim=True, unbiased=False)
        return self.gamma * (x - mean) / torch.sqrt(variance + 1e-5) + self.beta


class LiteralAlignment(nn.Module):
    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.norm = heads, head_dim, LiteralNorm(width)
        self.image_projection = nn.Linear(width, heads * head_dim)
        self.signal_projection = nn.Linear(width, 2 * head_dim)

    def forward(self, image: Tensor, signal: Tensor) -> Tensor:
        b, n, _ = image.shape
        q = self.image_projection(self.norm(image)).view(b, n, self.heads, self.head_dim).transpose(1, 2)
        k, v = self.signal_projection(self.norm(signal)).chunk(2, dim=-1)
        energy = torch.einsum("bhnd,bmd->bhnm", q * self.head_dim**-0.5, k)
        weights = torch.softmax(energy - energy.amax(dim=-1, keepdim=True).detach(), dim=-1)
        return torch.einsum("bhnm,bmd->bhnd", weights, v).transpose(1, 2).reshape(b, n, -1)


class LiteralEnhancement(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = LiteralNorm(width)
        self.residual_block = nn.Sequential(nn.Conv1d(width, width, 1), nn.Conv1d(width, heads, 1))
        self.cnn = nn.Sequential(nn.Conv1d(width, width, 1))

    def forward(self, features: Tensor) -> Tensor:
        z = self.norm(features)
        e = self.cnn(self.residual_block(z).transpose(1, 2))
        return torch.relu(
            torch.relu(F.interpolate(e, size=64, mode="linear")) + F.interpolate(z, size=64, mode="linear")
        )


class LiteralEnhancer(nn.Module):
    """The whole network; ``image`` are the arguments of the image encoder."""

    def __init__(
        self, classes: int = 1000, width: int = 512, heads: int = 8, image: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.width = width
        self.image_encoder = LiteralImageEncoder(outputs=width, **(image or {}))
        self.signal_resnet = LiteralResNet(width)
        self.multi_modal_fusion = LiteralAlignment(width, heads, width // heads)
        self.feature_enhancement = LiteralEnhancement(width, heads)
        self.fc = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(64 * width, width),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(width, classes),
        )

    def forward(self, signal: Tensor, image: Tensor) -> Tensor:
        seen, heard = self.image_encoder(image)[0], self.signal_resnet(signal.unsqueeze(1))
        seen, heard = (e.unsqueeze(2).repeat(1, 1, self.width) for e in (seen, heard))
        return self.fc(self.feature_enhancement(self.multi_modal_fusion(seen, heard)))
