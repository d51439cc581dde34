"""A model of ``weft align`` in the place of a CLIP: frozen encoders, and the space in which they were aligned.

``weft align flickr8k --encoder image=hf:IMAGES --encoder text=hf:BERT -o runs/pair``, then ``clip=runs/pair``. Prompts
go in where the text model looks its words up, and on through all its layers and the aligner. The temperature is CLIP's
first one, .07: that of the objective is no part of an aligner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from weft.encoders.hf import PretrainedText
from weft.errors import UserError, some
from weft.models.aligned import AlignedModel
from weft.models.raw import make_encoder
from weft.systems.cocoop.network import ends
from weft.tokens import Tokens, pad

TEMPERATURE = 0.07


class AlignedClip(nn.Module):
    """What :class:`~weft.systems.cocoop.network.CoopNet` asks of a CLIP.

    Args:
        model: an aligner of a picture and a text, with the encoders it was trained on.

    Raises:
        UserError: it has no picture, no text, or no text model of transformers that knows its ends.
    """

    masked = True
    """Padding is not read."""

    def __init__(self, model: AlignedModel) -> None:
        super().__init__()
        specs = model.encoders or {}
        kinds = {spec["kind"]: name for name, spec in specs.items()}
        text, picture = (
            make_encoder(kinds[kind], specs[kinds[kind]]) if kind in kinds else None for kind in ("text", "image")
        )
        if not isinstance(text, PretrainedText) or picture is None:
            raise UserError(
                "prompts go through an aligner of pictures and a text model of transformers",
                some(f"{name}: {spec['spec']}" for name, spec in specs.items()) or "no encoders",
                "weft align PAIRS --encoder image=hf:FOLDER --encoder text=hf:FOLDER",
            )
        self.names, self._text, self.picture = kinds, text, picture
        self.tokenizer: Any = text.processor
        self.model, self.text_model = model, text.model
        config: Any = text.model.config
        places = min(config.max_position_embeddings, text.max_length)
        end = ends(self.tokenizer)[1]
        sizes = {"hidden_size": config.hidden_size, "max_position_embeddings": places, "eos_token_id": end}
        self.config = SimpleNamespace(
            text_config=SimpleNamespace(model_type=config.model_type, **sizes), projection_dim=model.width
        )
        self.register_buffer("logit_scale", torch.tensor(-math.log(TEMPERATURE)))

    def pixels(self, images: Sequence[Any], return_tensors: str = "pt") -> dict[str, Tensor]:
        """What :meth:`get_image_features` reads: tokens ``(B, T, D)`` of the frozen encoder, NaN after a row's last."""
        values, mask = pad([torch.from_numpy(tokens) for tokens in self.picture.encode(images)])
        return {"pixel_values": values.masked_fill(~mask[..., None], torch.nan)}

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """``(B, E)``, not normalised."""
        mask = ~pixel_values.isnan().any(dim=-1)
        return self.model.output(self.names["image"], Tokens(pixel_values.nan_to_num(), mask))

    def get_text_features(self, input_ids: Tensor) -> Tensor:
        """``(B, E)``, not normalised."""
        tokens = self._text.chosen(Tokens(input_ids, input_ids != self.tokenizer.pad_token_id))
        return self.model.output(self.names["text"], tokens)
