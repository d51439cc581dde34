r"""Cross-spectral re-identification with MutualFormer: an object in several spectra to one feature of its identity.

.. math::
    T_m &= \mathrm{ViT}_m(image_m) && (B, 1 + N, D), \text{ class token first, one encoder per spectrum} \\
    T_f &= \mathrm{MutualFormer}(T_1, ..., T_M) && \text{on all } 1 + N \text{ tokens} \\
    f &= T_f[0], \quad e = \mathrm{BN}(f), \quad z = W e && \text{BNNeck: no bias in BN and } W

The triplet loss reads ``f``, the identity loss ``z``, the search ``e``.

``fusion="cam"`` is the weighting of the baseline, on the patch tokens :math:`F_m` as maps:

.. math::
    v_m &= \mathrm{BN}(\mathrm{mean}\,F_m), \quad a_m = \sigma(C_m F_m) \in (0, 1)^{K \times N} \\
    s_m(k) &= \textstyle\sum_n a_m(k, n), \quad t(k) = \sum_n \max_m a_m(k, n) \\
    w_m &= \textstyle\sum_k \frac{t(k)}{\sum_{k'} t(k')} \frac{s_m(k)}{\sum_{m'} s_{m'}(k)}, \quad f = \sum_m w_m v_m

(its published code writes the maximum with strict comparisons, so that exact ties count 0; here they count).

``fusion="concat"`` is a linear layer on the class tokens; the name of a spectrum is the network of that one alone,
:math:`f` its class token.

Cost: ``M`` encoders (85.8 M weights each for ViT-B/16) and ``24 D^2 + 17 D`` per block, pair and layer.

When not to use it: spectra whose images are not taken at once from one place, because tokens meet by position; a
gallery of one spectrum searched by another, because the feature needs all of them.

Source: Wang et al., "MutualFormer", IJCV 2024 (arXiv 2112.01177). Its re-identification network is not published: this
is our reconstruction around its blocks. Luo et al. 2019 for the BNNeck; Li et al., AAAI 2020 for the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from weft.errors import UserError, did_you_mean, some
from weft.fusion.mutualformer import MutualFormer
from weft.systems.backbone import load_vision_model
from weft.tokens import Tokens

ReIdFusion = Literal["mutualformer", "attention", "concat", "cam"]


class Identified(NamedTuple):
    """What the network says of a batch.

    Attributes:
        feature: ``(B, D)`` before the BNNeck.
        embedding: ``(B, D)`` after it.
        logits: ``(B, classes)``.
    """

    feature: Tensor
    embedding: Tensor
    logits: Tensor


class CrossSpectralReIdNet(nn.Module):
    """The network.

    Args:
        encoder: a transformers ViT: a folder, a hub name, or the content of its ``config.json`` as a mapping (then with
            random weights). Images of another size than its own get interpolated positions.
        names: the spectra, two or more.
        classes: identities to train on.
        fusion: ``"mutualformer"``, or with the same encoders ``"attention"`` (plain cross-attention instead of
            cross-diffusion), ``"concat"``, ``"cam"``; or one of ``names``.
        block: options of :class:`~weft.fusion.mutualformer.MutualFormer` (``depth``, ``heads``, ``alpha``, ...).

    Attributes:
        names: the spectra it reads.
        options: the arguments that build this network without its weights, as JSON values.

    Raises:
        UserError: unknown fusion, fewer than two spectra or identities, or an encoder that cannot be loaded; from
            ``forward``, a missing or unknown spectrum.
    """

    def __init__(
        self,
        encoder: str | Path | Mapping[str, Any],
        names: Sequence[str],
        classes: int,
        *,
        fusion: ReIdFusion | str = "mutualformer",
        block: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        fusions = (*get_args(ReIdFusion), *names)
        if fusion not in fusions:
            raise UserError("unknown fusion of the re-identification network", fusion, did_you_mean(fusion, fusions))
        if len(names) < 2 or classes < 2:
            raise UserError(
                "re-identification across spectra has two or more spectra and identities",
                f"{some(names)}; {classes} identities",
                "choose other data",
            )
        self.names, self.fusion = (fusion,) if fusion in names else tuple(names), fusion
        encoders: list[Any] = [load_vision_model(encoder, maps=False)[0] for _ in self.names]
        config = encoders[0].config
        for module in encoders:
            module.pooler = None
        self.encoders = nn.ModuleList(encoders)
        self.options: dict[str, Any] = {
            "encoder": config.to_dict(),
            "names": list(names),
            "classes": classes,
            "fusion": fusion,
            "block": dict(block or {}),
        }
        width: int = config.hidden_size
        if fusion in ("mutualformer", "attention"):
            options = {"cross": "diffusion" if fusion == "mutualformer" else "attention", **(block or {})}
            self.join: nn.Module = MutualFormer(dict.fromkeys(names, width), width, **options)
        elif fusion == "concat":
            self.join = nn.Linear(len(names) * width, width)
        elif fusion == "cam":
            self.join = CamWeighting(len(names), width, classes)
        else:
            self.join = nn.Identity()
        self.neck = nn.BatchNorm1d(width)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(width, classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Mapping[str, Tensor]) -> Identified:
        """Feature ``(B, D)``, embedding and logits of ``{name: (B, 3, H, W)}`` in [0, 1], all of one size.

        Raises:
            UserError: a spectrum is missing.
        """
        if set(images) != set(self.names):
            raise UserError("the network reads every spectrum", some(images), f"give {some(self.names)}")
        tokens = [
            encoder(image * 2 - 1, interpolate_pos_encoding=True).last_hidden_state
            for encoder, image in zip(self.encoders, (images[name] for name in self.names), strict=True)
        ]
        feature = self._join(tokens)
        embedding = self.neck(feature)
        return Identified(feature, embedding, self.classifier(embedding))

    def _join(self, tokens: list[Tensor]) -> Tensor:
        if self.fusion in self.names:
            return self.join(tokens[0][:, 0])
        if self.fusion == "concat":
            return self.join(torch.cat([t[:, 0] for t in tokens], dim=1))
        if self.fusion == "cam":
            return self.join(torch.stack([t[:, 1:] for t in tokens]))
        real = torch.ones(tokens[0].shape[:2], dtype=torch.bool, device=tokens[0].device)
        fused = self.join({name: Tokens(t, real) for name, t in zip(self.names, tokens, strict=True)})
        return fused.tokens.values[:, 0]


class CamWeighting(nn.Module):
    """The baseline's fusion: spectra weighted by how much of the class activation each one brings."""

    def __init__(self, spectra: int, width: int, classes: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(spectra))
        self.maps = nn.ModuleList(nn.Linear(width, classes, bias=False) for _ in range(spectra))

    def forward(self, patches: Tensor) -> Tensor:
        """``(M, B, N, D)`` to ``(B, D)``."""
        weights = self.weights(patches)
        vectors = torch.stack([norm(p.mean(dim=1)) for norm, p in zip(self.norms, patches, strict=True)])
        return (weights.unsqueeze(-1) * vectors).sum(dim=0)

    def weights(self, patches: Tensor) -> Tensor:
        """``(M, B)``, summing to one over the spectra."""
        active = torch.stack([linear(p).sigmoid() for linear, p in zip(self.maps, patches, strict=True)])
        each, joint = active.sum(dim=2), active.amax(dim=0).sum(dim=1)
        return (joint / joint.sum(dim=1, keepdim=True) * each / each.sum(dim=0)).sum(dim=2)
