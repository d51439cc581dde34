"""A model as one graph of plain tensors: two inputs per modality, the answers as outputs.

========================  =====================================================  ============================
modality read by          inputs                                                 shapes
========================  =====================================================  ============================
any other encoder         ``NAME`` features float32, ``NAME_mask`` bool          ``(B, T, D)``, ``(B, T)``
``hf:`` model of text     ``NAME_ids`` int64, ``NAME_mask`` bool                 ``(B, T)``, ``(B, T)``
``hf:`` model of images   ``NAME_pixels`` float32, ``NAME_present`` bool         ``(B, C, H, W)``, ``(B, 1)``
``hf:`` model of sound    ``NAME_wave`` float32, ``NAME_present`` bool           ``(B, S)``, ``(B, 1)``
========================  =====================================================  ============================

``B``, ``T`` and ``S`` are free; the clips of one call have one length, since models of waves hear silence, too. A row
whose mask is all False lacks the modality. ``NAME`` is the modality's own where that can be an identifier, else
``modality_0``, ... A predictor gives ``outputs`` ``(B, K)`` and, where its task has probabilities, ``probability``; an
aligner gives ``NAME_embedding`` ``(B, dim)``, unit vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weft.encoders.hf import PretrainedAudio, PretrainedImage, PretrainedText
from weft.errors import UserError
from weft.models.aligned import AlignedModel
from weft.models.boosted import BoostedModel
from weft.models.ensemble import EnsembleModel
from weft.models.fused import FusedModel
from weft.models.linear import ChanceModel, LinearModel
from weft.models.raw import make_encoder
from weft.store.files import DTYPES
from weft.tokens import Tokens, present

WHOLE = ("FusedModel", "LinearModel", "BoostedModel", "ChanceModel", "EnsembleModel", "AlignedModel", "AlignedEnsemble")

PIXELS = (
    *("do_convert_rgb", "do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)
"""What an image processor does, in this order."""


class Door(nn.Module, ABC):
    """How one modality comes in.

    Attributes:
        names: of its two inputs.
        free: the axes of each input that may have any length, ``{axis: letter}``.
    """

    names: tuple[str, str]
    free: tuple[dict[int, str], dict[int, str]]

    @abstractmethod
    def sample(self, rows: int, tokens: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs to try the graph with; the last row lacks the modality if ``rows`` is odd and above 1."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What has to be done to a value first, as JSON."""


class Features(Door):
    """Tokens that were encoded elsewhere.

    Args:
        name: of the inputs.
        width: ``D``.
        spec: of the encoder that makes them, where it is known.
        mean, scale: of the features, to draw samples that look like them.
    """

    def __init__(self, name: str, width: int, spec: Mapping[str, Any] | None, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.names, self.width, self._mean, self._scale = (name, f"{name}_mask"), width, mean, scale
        self.free = ({0: "batch", 1: f"{name}_tokens"}, {0: "batch", 1: f"{name}_tokens"})
        self.made_by = None if spec is None else {key: spec[key] for key in ("spec", "kind", "options", "dtype")}

    def forward(self, values: Tensor, mask: Tensor) -> Tokens:
        return Tokens(values, mask)

    def sample(self, rows: int, tokens: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        values = self._mean + self._scale * torch.randn(rows, tokens, self.width, generator=random)
        return values, some_mask(rows, tokens)

    def about(self) -> dict[str, Any]:
        return {"reads": "features", "width": self.width, "encoder": self.made_by}


class Text(Door):
    """Numbers of tokens, read by a language model inside the graph."""

    def __init__(self, name: str, encoder: PretrainedText, dtype: str) -> None:
        super().__init__()
        self.names, self.free = (f"{name}_ids", f"{name}_mask"), ({0: "batch", 1: f"{name}_tokens"},) * 2
        self._encoder, self.network, self.dtype = encoder, encoder.model, dtype

    def forward(self, values: Tensor, mask: Tensor) -> Tokens:
        return rounded(self._encoder.chosen(Tokens(values, mask)), self.dtype)

    def sample(self, rows: int, tokens: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        words = int(self._encoder.model.config.vocab_size)  # type: ignore[union-attr, arg-type]
        return torch.randint(0, words, (rows, tokens), generator=random), some_mask(rows, tokens)

    def about(self) -> dict[str, Any]:
        encoder = self._encoder
        found = {"reads": "text", "model": encoder.identity()["model"], "most_tokens": encoder.max_length}
        return found | {"tokenizer": f"tokenizer.json of {encoder.name}, special tokens included, padded on the right"}


class Image(Door):
    """Pixels, read by a vision model inside the graph."""

    def __init__(self, name: str, encoder: PretrainedImage, dtype: str) -> None:
        super().__init__()
        self.names, self.free = (f"{name}_pixels", f"{name}_present"), ({0: "batch"}, {0: "batch"})
        self._encoder, self.network, self.dtype = encoder, encoder.model, dtype
        self.shape = tuple(encoder.read([np.zeros((8, 8, 3), np.uint8)]).values.shape[1:])

    def forward(self, values: Tensor, mask: Tensor) -> Tokens:
        return rounded(self._encoder.chosen(Tokens(values, mask)), self.dtype)

    def sample(self, rows: int, tokens: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.randn(rows, *self.shape, generator=random), some_mask(rows, 1)

    def about(self) -> dict[str, Any]:
        settings = self._encoder.processor.to_dict()
        pixels = {key: settings[key] for key in PIXELS if settings.get(key) is not None}
        return {"reads": "image", "model": self._encoder.identity()["model"], "shape": self.shape, "pixels": pixels}


class Sound(Door):
    """Samples, read by a model of waves inside the graph."""

    def __init__(self, name: str, encoder: PretrainedAudio, dtype: str) -> None:
        super().__init__()
        self.names = (f"{name}_wave", f"{name}_present")
        self.free = ({0: "batch", 1: f"{name}_samples"}, {0: "batch"})
        self._encoder, self.network, self.dtype = encoder, encoder.model, dtype

    def forward(self, values: Tensor, mask: Tensor) -> Tokens:
        return rounded(self._encoder.chosen(Tokens(values, mask)), self.dtype)

    def sample(self, rows: int, tokens: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.randn(rows, 1600 + 321 * tokens, generator=random), some_mask(rows, 1)

    def about(self) -> dict[str, Any]:
        processor = self._encoder.processor
        found = {"reads": "audio", "model": self._encoder.identity()["model"], "rate": processor.sampling_rate}
        return found | {"normalised": bool(getattr(processor, "do_normalize", False))}


class Graph(nn.Module):
    """A whole model: flat tensors in, a tuple of tensors out.

    Args:
        model: what :func:`weft.load_model` gives.

    Attributes:
        doors: one per modality.
        names: of the outputs.

    Raises:
        UserError: this class of model is no graph.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        core = as_module(model)
        self.modalities, self.task = list(model.names), getattr(model, "task", None)
        safe = {n: n if n.isidentifier() and n.isascii() else f"modality_{i}" for i, n in enumerate(model.names)}
        self.doors = [_door(model, name, safe[name]) for name in model.names]
        self.networks = nn.ModuleList(self.doors)
        self.core = core.float().eval() if not isinstance(model, BoostedModel | EnsembleModel) else core.eval()
        if isinstance(model, AlignedModel):
            self.names = [f"{safe[name]}_embedding" for name in model.names]
        else:
            self.names = ["outputs", *(["probability"] if model.task.probabilistic else [])]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        pairs = zip(self.modalities, self.doors, inputs[::2], inputs[1::2], strict=True)
        answer = self.core({name: door(values, mask) for name, door, values, mask in pairs})
        if isinstance(answer, dict):
            return tuple(answer[name].float() for name in self.modalities)
        if self.task is None or not self.task.probabilistic:
            return (answer,)
        p = self.task.log_probabilities(answer).exp()
        return answer, p[..., 1] if self.task.estimator == "per-label" else p[:, 0]

    def sample(self, rows: int, tokens: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs to try it with; in an odd number of rows above 1 the last lacks all modalities but the first."""
        random, found = torch.Generator().manual_seed(seed), []
        for place, door in enumerate(self.doors):
            values, mask = door.sample(rows, tokens, random)
            if rows > 1 and rows % 2 and place and not self.needs_all:
                mask[-1] = False
            found += [values, mask]
        return tuple(found)

    needs_all = False


class Averaged(nn.Module):
    """An ensemble, its members asked of every row and heard where they have something to look at."""

    def __init__(self, model: EnsembleModel) -> None:
        super().__init__()
        self.task, self._names = model.task, [member.names for member in model.members]
        self.members = nn.ModuleList(as_module(member) for member in model.members)
        self.register_buffer("weights", model.get_buffer("weights").double())
        self.register_buffer("answer", model.get_buffer("answer"))

    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        parts = []
        for member, names in zip(self.members, self._names, strict=True):
            seen = {name: inputs[name] for name in names}
            there = torch.stack([present(tokens) for tokens in seen.values()]).any(dim=0).unsqueeze(1)
            parts.append(torch.where(there, member(seen), self.get_buffer("answer")))
        return self.task.mix(torch.stack(parts).double(), self.get_buffer("weights")).float()


def as_module(model: Any) -> nn.Module:
    """What maps ``{name: Tokens}`` to outputs, by operations that a graph can hold.

    Raises:
        UserError: this class of model is no graph.
    """
    from weft.export.trees import TreeModel

    if isinstance(model, BoostedModel):
        return TreeModel(model)
    if isinstance(model, EnsembleModel):
        return Averaged(model)
    if isinstance(model, FusedModel | LinearModel | ChanceModel | AlignedModel):
        return model
    found = f"a {type(model).__name__}"
    raise UserError("this model is no graph that can be exported", found, f"export one of: {', '.join(WHOLE)}")


def rounded(tokens: Tokens, dtype: str) -> Tokens:
    """As features are kept in a store, and were in training."""
    return tokens if dtype == "fp32" else Tokens(tokens.values.to(DTYPES[dtype]).float(), tokens.mask)


def some_mask(rows: int, tokens: int) -> Tensor:
    """Rows of ``tokens``, ``tokens - 1``, ... real tokens, at least one."""
    length = (tokens - torch.arange(rows) % 3).clamp(min=1)
    return torch.arange(tokens) < length.unsqueeze(1)


def _door(model: Any, name: str, safe: str) -> Door:
    spec = None if model.encoders is None else model.encoders[name]
    if spec is not None and spec["spec"].startswith("hf:"):
        encoder = make_encoder(name, spec)
        if isinstance(encoder, PretrainedText):
            return Text(safe, encoder, spec["dtype"])
        if isinstance(encoder, PretrainedImage) and encoder.views == 1:
            return Image(safe, encoder, spec["dtype"])
        if isinstance(encoder, PretrainedAudio) and encoder.processor.model_input_names[0] == "input_values":
            return Sound(safe, encoder, spec["dtype"])
    return Features(safe, model.dims[name], spec, *_spread(model, name))


def _spread(model: Any, name: str) -> tuple[Tensor, Tensor]:
    """Mean and scale ``(D,)`` of a modality in training, where the model knows them."""
    if name in model.dims and hasattr(model, "standardise"):
        mean, scale = model.standardise.statistics(name)
        return mean.float(), scale.float()
    if isinstance(model, LinearModel | BoostedModel):
        index = list(model.dims).index(name)
        return model.inputs.get_buffer(f"mean_{index}").float(), model.inputs.get_buffer(f"scale_{index}").float()
    for member in getattr(model, "members", ()):
        if name in member.names:
            return _spread(member, name)
    return torch.zeros(model.dims[name]), torch.ones(model.dims[name])
