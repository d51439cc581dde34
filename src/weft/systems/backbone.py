"""Feature maps at strides 4, 8, 16 and 32 of a transformers vision model, whatever its family.

``ResNet``, ``Swin``, ``ConvNeXt``, ``PVT v2``... have a backbone class (``AutoBackbone`` with ``out_features``). Of a
model without one (MobileNetV2), the last hidden state at each stride is taken; which one that is, is measured once on
an empty image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weft.encoders.hf import quiet
from weft.errors import UserError, some

STRIDES = (4, 8, 16, 32)
IMAGENET: dict[str, tuple[float, ...]] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
NEW = ("hidden_states_norms", "pooler")
"""Norms that backbone classes add to a classifier's weights start as the identity; poolers are not used."""

PROBE = 64
"""Side of the empty image by which strides are measured."""


class Backbone(nn.Module):
    """An image to its maps ``(B, widths[i], H / STRIDES[i], W / STRIDES[i])``.

    Args:
        source: a transformers model: a folder, a hub name, or the content of its ``config.json`` as a mapping (the
            weights are then random).

    Attributes:
        config: ``config.json`` of the model, which builds the same backbone without its weights.
        widths: channels at each of ``STRIDES``.

    Raises:
        UserError: the model cannot be loaded, or has no map at one of the strides.
    """

    def __init__(self, source: str | Path | Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.hidden = load_vision_model(source)
        config: Any = self.model.config
        self.config: dict[str, Any] = config.to_dict()
        self.eval()
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, PROBE, PROBE))
        last = {PROBE // side: i for i, side in enumerate(m.shape[-1] for m in maps) if PROBE % side == 0}
        missing = [stride for stride in STRIDES if stride not in last]
        if missing:
            raise UserError(
                "the backbone has feature maps at strides 4, 8, 16 and 32",
                f"{type(self.model).__name__} has none at {missing}, only at {sorted(last)}",
                "choose a hierarchical model: ResNet, Swin, ConvNeXt, MobileNetV2, ...",
            )
        self.chosen = [last[stride] for stride in STRIDES]
        self.widths = [maps[i].shape[1] for i in self.chosen]

    def forward(self, image: Tensor) -> list[Tensor]:
        """The maps of ``(B, 3, H, W)``, finest first."""
        maps = self._maps(image)
        return [maps[i] for i in self.chosen]

    def _maps(self, image: Tensor) -> tuple[Tensor, ...]:
        if not self.hidden:
            return tuple(self.model(image).feature_maps)
        states = self.model(image, output_hidden_states=True).hidden_states
        return tuple(state for state in states if state.ndim == 4)


def load_vision_model(source: str | Path | Mapping[str, Any], *, maps: bool = True) -> tuple[nn.Module, bool]:
    """A transformers model in float32, and whether it is a plain one.

    Args:
        source: see :class:`Backbone`.
        maps: load its backbone class, where it has one.

    Raises:
        UserError: it cannot be loaded, or its weights are incomplete.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES as WITH_CLASS

    try:
        if isinstance(source, Mapping):
            options = {key: value for key, value in source.items() if key not in ("model_type", "dtype")}
            config = transformers.AutoConfig.for_model(source["model_type"], **options)
        else:
            config = transformers.AutoConfig.from_pretrained(str(source))
        hidden = not (maps and config.model_type in WITH_CLASS)
        if not hidden:
            config.out_features = config.stage_names
        auto = transformers.AutoModel if hidden else transformers.AutoBackbone
        if isinstance(source, Mapping):
            return auto.from_config(config).float(), hidden
        with torch.device("meta"):  # AutoBackbone.from_pretrained asks the hub even for a folder; the class does not
            kind = type(auto.from_config(config))
        with quiet():
            model, loading = kind.from_pretrained(
                str(source), config=config, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            "the backbone cannot be loaded",
            f"{source}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}",
            "give a folder with config.json and model.safetensors, or a hub name while connected",
        ) from error
    missing = [name for name in loading["missing_keys"] if not name.startswith(NEW)]
    if missing:
        raise UserError(
            "the weights of the backbone are incomplete: the missing ones would be random",
            f"{source}: {some(sorted(missing))}",
            "save the whole model with save_pretrained()",
        )
    return model.float(), hidden


def normalisation(source: str | Path | Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Mean and deviation of the channels the model was trained with; ImageNet's where it does not say."""
    import transformers

    if isinstance(source, Mapping):
        return IMAGENET
    try:
        with quiet():
            settings = transformers.AutoImageProcessor.from_pretrained(str(source)).to_dict()
    except (OSError, ValueError, ImportError):
        return IMAGENET
    return {"mean": tuple(settings["image_mean"]), "std": tuple(settings["image_std"])}
