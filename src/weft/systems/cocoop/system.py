"""CoOp and CoCoOp as a system: images to one of the classes whose names are read, by prompts learned for a frozen CLIP.

The image features of a frozen CLIP are computed once and kept, so nothing is cropped or mirrored in training, and the
loop's AdamW moves the weights where the papers have SGD. The folder of a model holds what was learned; CLIP is read
from where it was, and refused if its weights are others. An untrained model under ``phrase="a photo of a"`` without a
meta-net is zero-shot CLIP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Self
from weakref import WeakValueDictionary

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from weft.data import Dataset, read_image
from weft.encoders.hf import quiet
from weft.errors import UserError, some
from weft.files import read_json
from weft.models.aligned import AlignedModel
from weft.models.pretrained import load_model
from weft.registry import Learned
from weft.systems.cocoop.aligned import AlignedClip
from weft.systems.cocoop.network import CoopNet, Position, PromptLearner, plain_ids, tokenise
from weft.tasks.classification import ClassificationTask
from weft.training.once import Once
from weft.training.system import Need, TaskSystem, systems, take

FROZEN = "network.clip."
DEVIATION = 0.02
KEPT: WeakValueDictionary[str, Once[Tensor]] = WeakValueDictionary()
"""Image features by the weights that made them, for as long as a model is in use: variants and other classes share."""


@systems.register("cocoop")
class Cocoop(TaskSystem):
    """Images to classes by learned prompts of their names; CoCoOp, Zhou et al. 2022.

    Args:
        clip: a CLIP or SigLIP of transformers with tokenizer and image processor: a folder, or a hub name; or the
            folder of an aligner of pictures and texts (``weft align``), whose text encoder is one of transformers.
        phrase: words the context begins as; empty: ``context`` random tokens.
        context: how many these are.
        position: of the class name in the prompt.
        class_specific: a context for every class, which cannot be carried over to others.
        conditional: prompts depend on the image (CoCoOp); False: CoOp.
        chunk: prompts of one text pass.
        task, weights: learned: the classes, and a hash of CLIP's weights.
    """

    reads = {"image": Need("image"), "label": Need("label", target=True)}
    reader = "coop-splits"
    trained_with = {"lr": 2e-3, "weight_decay": 5e-4, "epochs": 10, "batch_size": 1}
    variants = {"cocoop": {"conditional": True}, "coop": {"conditional": False}}
    paper = "Zhou et al. 2022, Conditional Prompt Learning for Vision-Language Models (CVPR, arXiv 2203.05557)"

    def __init__(
        self,
        *,
        clip: str | Path,
        phrase: str = "a photo of a",
        context: Annotated[int, Field(ge=1)] = 4,
        position: Position = "end",
        class_specific: bool = False,
        conditional: bool = True,
        chunk: Annotated[int, Field(ge=1)] = 64,
        task: Learned[dict[str, Any] | None] = None,
        weights: Learned[str] = "",
    ) -> None:
        super().__init__(task or {})
        if self.answers.reads != "classes":
            found = type(self.answers).__name__
            raise UserError("prompts are learned for names of classes", found, "name a classification target")
        phrase = phrase.strip()
        self.clip, self.phrase, self.context, self.position = str(clip), phrase, context, position
        self.class_specific, self.conditional, self.chunk = class_specific, conditional, chunk
        model, self.tokenizer, self.processor = load_clip(self.clip)
        self.weights = fingerprint(model)
        if weights not in ("", self.weights):
            raise UserError(
                "the prompts were learned for another CLIP",
                f"the weights in {self.clip} have changed",
                "bring back the model they were learned for, or train again",
            )
        text = model.config.text_config
        if phrase:
            ids = torch.tensor(plain_ids(self.tokenizer, phrase))
            first = model.text_model.get_input_embeddings().weight.data[ids]
        else:
            first = torch.randn(context, text.hidden_size) * DEVIATION
        names = self.answers.labels
        if class_specific:
            first = first.expand(len(names), -1, -1)
        joint = width_of(model) if conditional else None
        learner = PromptLearner(first, joint=joint, position=position)
        prompts = tokenise(names, self.tokenizer, learner.places, text.max_position_embeddings, phrase=phrase)
        self.network = CoopNet(model, learner, prompts, chunk=chunk)
        self._features = KEPT.setdefault(self.weights, Once(self._encoded, self.rows_at_once))

    def for_classes(self, names: Sequence[str | int | bool]) -> Self:
        """The same prompts around the names of other classes, a model of its own.

        Raises:
            UserError: the contexts are class-specific; or as :func:`~weft.systems.cocoop.network.tokenise`.
        """
        if self.class_specific:
            raise UserError(
                "class-specific contexts belong to the classes they were learned for",
                some(names),
                "train with class_specific=false to carry prompts over",
            )
        other = type(self)(**{**self.config(), "task": ClassificationTask(list(names)).config()})
        other.load_state_dict(self.state_dict())
        other.seen = self.seen
        return other.to(self.device).eval()

    def evaluate(
        self, data: Dataset, rows: np.ndarray, figures: Path | str | None = None, **options: Any
    ) -> dict[str, float]:
        """As any system; of data with classes that it was not trained on, as :meth:`for_classes` of all classes there.

        So base to new, and from one data set to another, are ``weft evaluate`` of the other data.
        """
        target = data.targets[self.columns(data)["label"]].tolist()
        names = sorted({label for label in target if label is not None and label == label}, key=str)
        asked = self if {str(name) for name in names} <= set(self.answers.labels) else self.for_classes(names)
        return super(Cocoop, asked).evaluate(data, rows, figures, **options)

    def inputs(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> tuple[Tensor]:
        """Normalised image features ``(B, E)``, computed once."""
        return (torch.stack(self._features(data, rows)),)

    def _encoded(self, data: Dataset, rows: np.ndarray) -> Sequence[Tensor]:
        column = self.columns(data, target=False)["image"]
        values = take(data, column, rows)
        images = [read_image(v, f"image of row {data.ids[row]!r}") for v, row in zip(values, rows, strict=True)]
        pixels = self.processor(images, return_tensors="pt")["pixel_values"].to(self.device)
        return list(self.network.image_features(pixels).cpu())

    def forward(self, feature: Tensor) -> Tensor:
        """Logits ``(B, C)`` of image features ``(B, E)``."""
        logits: Tensor = self.network(feature)
        return logits

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """What was learned; CLIP is left out."""
        found = super().state_dict(*args, **options)
        return {name: value for name, value in found.items() if not name.startswith(FROZEN)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """What was learned; CLIP stays."""
        whole = super().state_dict()
        frozen = {name: value for name, value in whole.items() if name.startswith(FROZEN)}
        return super().load_state_dict({**frozen, **state_dict}, strict=strict, assign=assign)


def load_clip(source: str) -> tuple[Any, Any, Any]:
    """A CLIP or SigLIP in float32, its tokenizer and its image processor.

    Raises:
        UserError: they cannot be loaded, weights are missing, or the model has no text and image in one space.
    """
    import transformers

    places = [Path(source) / part / "config.json" for part in ("", "best", "winner")]
    if any(place.is_file() and "format" in read_json(place) for place in places):
        aligned = load_model(source)
        if not isinstance(aligned, AlignedModel):
            found = f"{source}: {type(aligned).__name__}"
            raise UserError("prompts are learned for an aligner of pictures and texts", found, "weft align PAIRS")
        made = AlignedClip(aligned.eval())
        return made, made.tokenizer, made.pixels
    try:
        with quiet():
            model, loading = transformers.AutoModel.from_pretrained(
                source, use_safetensors=True, output_loading_info=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            processor = transformers.AutoImageProcessor.from_pretrained(source)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            "the CLIP cannot be loaded",
            f"{source}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}",
            "give a folder with config.json, model.safetensors, tokenizer and image processor, or a hub name while "
            "connected",
        ) from error
    if not (hasattr(model, "get_text_features") and hasattr(model, "logit_scale")):
        raise UserError(
            "prompts are learned for a CLIP or a SigLIP", f"{source}: {type(model).__name__}", "name such a model"
        )
    if loading["missing_keys"]:
        raise UserError(
            "the weights of the CLIP are incomplete: the missing ones would be random",
            f"{source}: {some(sorted(loading['missing_keys']))}",
            "save the whole model with save_pretrained()",
        )
    return model.float(), tokenizer, processor


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of all weights."""
    found = sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def width_of(model: Any) -> int:
    """``E``, the width of the space of images and texts."""
    config = model.config
    joint = getattr(config, "projection_dim", None)
    return int(config.vision_config.hidden_size if joint is None else joint)
