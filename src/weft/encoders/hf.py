"""Transformers models, frozen, by name or folder: ``hf:<name or folder>`` for text, images and sound.

The model runs in evaluation and inference mode, in float32 or under autocast, as it is or compiled. Only safetensors
weights are loaded, a model whose weights are incomplete is refused, and no code of the model's repository is run
(``trust_remote_code`` stays off). ``HF_HUB_OFFLINE=1`` keeps everything local.

Outputs: ``tokens`` (the last hidden state, or that after a ``layer``, real tokens only; a convolutional map ``(C, H,
W)`` becomes ``H * W`` tokens, row-major), or one token: their ``mean``, the first one (``cls``), or the model's own
``pooler`` output; of a CLIP's picture also its ``patches`` after the last norm, without the class token, as some read
it. Of a model with two towers the fitting one is used, of an encoder-decoder the encoder.

Sound is read by each model's own rate and run in groups of equal length, without padding: models trained without an
attention mask would otherwise give a clip another output in another batch.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from weft.data.files import read_image
from weft.encoders.audio import read_clip
from weft.encoders.base import Encoder, default_encoder, encoders, read_each
from weft.errors import UserError, some
from weft.registry import Count
from weft.tokens import Tokens, mean_pool

Output = Literal["tokens", "mean", "cls", "pooler"]
Precision = Literal["fp32", "bf16", "fp16"]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
COMPILED = 16
"""Values of a batch that is worth compiling for: below, torch takes other convolutions, and would compile once more."""


class Pretrained(Encoder):
    """What the three kinds have in common: loading, running, choosing the output, identity.

    Args:
        model: name on the Hugging Face hub, or a folder.
        output: ``"tokens"``, ``"mean"``, ``"cls"`` or ``"pooler"``.
        revision: branch, tag or commit, for models by name.
        device: ``"auto"`` (a GPU if there is one), or a torch device.
        precision: ``"fp32"``, or autocast to ``"bf16"`` or ``"fp16"``.
        layer: read the hidden state after this layer (0: what goes into the first; -2: the last but one) instead of the
            model's last. An inner layer is often nearer to another modality: `weft inspect` measures how near. Several:
            their states side by side, ``layer=[6, 4, 2]``, where they have the same tokens.
        compile: translate the model by ``torch.compile``, about a minute of work at the first batch of 16 values or
            more; smaller ones go through the model as it is. It needs a compiler, and features differ in their last
            digits, so they are those of another encoder. It pays for networks of convolutions over thousands of values.
    """

    processor_class: str
    tower: str
    compile = False
    _compiled: Callable[..., Any] | None = None

    def __init__(
        self,
        *,
        model: str,
        output: Output | Literal["patches"] = "tokens",
        revision: str | None = None,
        device: str = "auto",
        precision: Precision = "fp32",
        layer: int | Annotated[Sequence[int], Field(min_length=1)] | None = None,
        compile: bool = False,
    ) -> None:
        import transformers

        if layer is not None and output == "pooler":
            raise UserError("the pooler reads the last layer", f"layer={layer}", "use output='mean' or 'cls'")
        self.layer = layer if layer is None or isinstance(layer, int) else list(layer)
        self.name, self.output, self.revision, self.precision = model, output, revision, precision
        self.device = torch.device(
            "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
        )
        self.folder = Path(model).expanduser() if Path(model).expanduser().is_dir() else None
        source = str(self.folder or model)
        options = {} if self.folder or revision is None else {"revision": revision}
        processor = getattr(transformers, self.processor_class)
        self.processor = self._load(lambda: processor.from_pretrained(source, **options))
        with quiet():
            whole, loading = self._load(
                lambda: transformers.AutoModel.from_pretrained(
                    source, use_safetensors=True, output_loading_info=True, **options
                )
            )
        self._check_complete(loading["missing_keys"])
        self.commit = getattr(whole.config, "_commit_hash", None)
        self.model: nn.Module = self._part(whole).to(device=self.device, dtype=torch.float32).eval()
        self.width = self._width()
        self.compile = compile

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled: every process compiles for itself."""
        return {**self.__dict__, "_compiled": None}

    def _load(self, load: Callable[[], Any]) -> Any:
        try:
            return load()
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"the model {self.name!r} cannot be loaded",
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
                "give a folder with config.json, model.safetensors and the processor's files (hf:/path/to/folder), "
                "download the model once while connected (HF_HUB_OFFLINE unset), "
                f"or use the built-in {default_encoder(self.kinds[0])!r}, which needs no weights",
            ) from error

    def _check_complete(self, missing: Iterable[str]) -> None:
        used = [name for name in missing if self.output == "pooler" or "pooler" not in name]
        if used:
            raise UserError(
                f"the weights of the model {self.name!r} are incomplete: the missing ones would be random",
                some(sorted(used)),
                "save the whole model with save_pretrained()"
                + (", or use output='mean'" if "pooler" in used[0] else ""),
            )

    def _part(self, model: nn.Module) -> nn.Module:
        if hasattr(model, self.tower):
            part: nn.Module = getattr(model, self.tower)
            return part
        if getattr(model.config, "is_encoder_decoder", False):
            encoder: nn.Module = model.get_encoder()  # type: ignore[operator]
            return encoder
        return model

    @abstractmethod
    def _width(self) -> int:
        """``D`` of the chosen output."""

    @torch.inference_mode()
    def _run(self, inputs: dict[str, Tensor]) -> list[np.ndarray]:
        """One forward pass of equal or masked inputs, and the chosen output of every value."""
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        autocast = AUTOCAST.get(self.precision)
        with torch.autocast(self.device.type, dtype=autocast, enabled=autocast is not None):
            outputs, last = self._states(self._encoding, **inputs)
        if self.output == "pooler":
            pooled = outputs.get("pooler_output")
            if pooled is None:
                raise UserError(
                    f"the model {self.name!r} has no pooler", "output='pooler'", "use output='mean' or 'cls'"
                )
            return list(pooled.flatten(1).unsqueeze(1).float().cpu().numpy())
        hidden = as_sequence(last).float().cpu().numpy()
        mask = inputs["attention_mask"].bool().cpu().numpy() if self.masked else None
        kept = list(hidden) if mask is None else [values[real] for values, real in zip(hidden, mask, strict=True)]
        if self.output == "mean":
            return [values.mean(axis=0, keepdims=True) for values in kept]
        if self.output == "cls":
            return [values[:1] for values in kept]
        return [np.ascontiguousarray(values) for values in kept]

    masked = False

    @abstractmethod
    def feed(self, raw: Tokens) -> dict[str, Tensor]:
        """What the model is called with, of what :meth:`read` gave."""

    def chosen(self, raw: Tokens) -> Tokens:
        """The chosen output of what :meth:`read` gave, padded on the right: what :meth:`encode` gives, as tensors.

        A row whose mask is empty stays empty.
        """
        outputs, last = self._states(self.model, **self.feed(raw))
        there = raw.mask.any(dim=1, keepdim=True)
        if self.output == "pooler":
            return Tokens(outputs["pooler_output"].flatten(1).unsqueeze(1), there)
        values = as_sequence(last)
        mask = raw.mask if self.masked else there.expand(values.shape[:2])
        if self.output == "mean":
            return Tokens(mean_pool(Tokens(values, mask)).unsqueeze(1), there)
        return Tokens(values[:, :1], there) if self.output == "cls" else Tokens(values, mask)

    def _encoding(self, **inputs: Any) -> Any:
        """The model, compiled where that was asked."""
        if not self.compile or len(next(iter(inputs.values()))) < COMPILED:
            return self.model(**inputs)
        if self._compiled is None:
            self._compiled = torch.compile(self.model, dynamic=True)
        try:
            return self._compiled(**inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            remedy = "install a C++ compiler (apt-get install g++; on a GPU: Triton), or leave compile out"
            raise UserError(f"the model {self.name!r} cannot be compiled", why, remedy) from error

    def _states(self, model: Callable[..., Any], **inputs: Tensor) -> tuple[Any, Tensor]:
        """All that the model puts out, and the hidden state of the chosen layer."""
        if self.layer is None:
            outputs = model(**inputs)
            return outputs, outputs["last_hidden_state"]
        outputs = model(**inputs, output_hidden_states=True)
        states, layers = outputs["hidden_states"], [self.layer] if isinstance(self.layer, int) else self.layer
        for layer in layers:
            if not -len(states) <= layer < len(states):
                found, most = f"layer={layer}", len(states) - 1
                raise UserError(
                    f"the model {self.name!r} has {most} layers", found, f"choose 0 to {most}, or -1 to {-most - 1}"
                )
        chosen = [as_sequence(states[layer]) for layer in layers]
        if len({state.shape[1] for state in chosen}) > 1:
            found = ", ".join(f"{layer}: {state.shape[1]}" for layer, state in zip(layers, chosen, strict=True))
            raise UserError("layers side by side have the same tokens", found, "choose one, or others")
        return outputs, torch.cat(chosen, dim=-1)

    def identity(self) -> dict[str, Any]:
        """All that decides the features. A folder is known by its content, not by where it lies."""
        return {
            "name": f"hf-{self.kinds[0]}",
            "version": 1,
            "model": self.folder.resolve().name if self.folder else self.name,
            "revision": None if self.folder else self.commit or self.revision,
            "weights": self._weights() if self.folder else None,
            "preprocessing": self._preprocessing(),
            "output": self.output,
            "precision": self.precision,
            **({} if self.layer is None else {"layer": self.layer}),
            **({"compile": True} if self.compile else {}),
        }

    def _weights(self) -> str:
        if self._hash is None and self.folder is not None:
            digest = hashlib.sha256()
            for path in [self.folder / "config.json", *sorted(self.folder.glob("*.safetensors"))]:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            self._hash = digest.hexdigest()
        return self._hash or ""

    _hash: str | None = None

    def _preprocessing(self) -> str:
        settings = {k: v for k, v in self.processor.to_dict().items() if not k.startswith("_") and "path" not in k}
        return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


@encoders.register("hf-text")
class PretrainedText(Pretrained):
    """A language model over text.

    Args:
        model, output, revision, device, precision, layer, compile: see :class:`Pretrained`.
        max_length: tokens beyond this many are cut off; None: the tokenizer's own limit, at most 512.
    """

    kinds = ("text",)
    processor_class, tower, masked = "AutoTokenizer", "text_model", True

    def __init__(
        self,
        *,
        model: str,
        output: Output = "tokens",
        max_length: Count | None = None,
        revision: str | None = None,
        device: str = "auto",
        precision: Precision = "fp32",
        layer: int | Annotated[Sequence[int], Field(min_length=1)] | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__(
            model=model, output=output, revision=revision, device=device, precision=precision, layer=layer,
            compile=compile,
        )  # fmt: skip
        self.max_length = max_length or min(self.processor.model_max_length, 512)
        if self.processor.pad_token is None:
            self.processor.pad_token = self.processor.eos_token
        backend = getattr(self.processor, "backend_tokenizer", None)
        rules = backend.to_str() if backend else json.dumps(self.processor.get_vocab(), sort_keys=True)
        settings = f"{rules}\n{self.processor.pad_token}\n{self.max_length}"
        self._rules = hashlib.sha256(settings.encode()).hexdigest()

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(tokens, D)`` per text, special tokens included."""
        return self._run(self._tokenise(values))

    def _tokenise(self, values: Sequence[Any]) -> dict[str, Tensor]:
        texts = [str(value) for value in values]
        return dict(
            self.processor(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        )

    def read(self, values: Sequence[Any]) -> Tokens:
        """What the model reads: the numbers of the tokens ``(n, T)`` int64."""
        batch = self._tokenise(values)
        return Tokens(batch["input_ids"], batch["attention_mask"].bool())

    def hidden(self, raw: Tokens) -> Tokens:
        """The last hidden state ``(n, T, D)`` of what :meth:`read` gave, with gradients."""
        return Tokens(self._states(self.model, **self.feed(raw))[1], raw.mask)

    def feed(self, raw: Tokens) -> dict[str, Tensor]:
        return {"input_ids": raw.values, "attention_mask": raw.mask.long()}

    def lengths(self, values: Sequence[Any]) -> np.ndarray:
        """``(n,)`` characters: near enough to tokens for sorting, and free."""
        return np.array([len(str(value)) for value in values], dtype=np.int64)

    def _width(self) -> int:
        return hidden_size(self.model) * (len(self.layer) if isinstance(self.layer, list) else 1)

    def _preprocessing(self) -> str:
        return self._rules  # taken before the first call, which leaves its padding and truncation in the tokenizer


@encoders.register("hf-image")
class PretrainedImage(Pretrained):
    """A vision model over images, preprocessed by the model's own image processor.

    Args:
        model, output, revision, device, precision, layer, compile: see :class:`Pretrained`; ``output="patches"``: the
            tokens of a CLIP after its last norm, without the class token.
        size: side of the square that images are resized to; None: as the model's own processor says. Only for models
            that take any size (convolutional ones).
        views: 1; 2: the picture and its mirror image; 4: also the whole picture, where the processor cuts out its
            middle, squeezed to a square, and its mirror image. The tokens of all (``output="mean"``: their mean).
    """

    kinds = ("image",)
    processor_class, tower = "AutoImageProcessor", "vision_model"

    def __init__(
        self,
        *,
        model: str,
        output: Output | Literal["patches"] = "tokens",
        size: Count | None = None,
        views: int = 1,
        revision: str | None = None,
        device: str = "auto",
        precision: Precision = "fp32",
        layer: int | Annotated[Sequence[int], Field(min_length=1)] | None = None,
        compile: bool = False,
    ) -> None:
        if views not in (1, 2, 4):
            raise UserError("there are 1, 2 or 4 views of a picture", f"views={views}", "2 adds its mirror image")
        self.size, self.views = size, views
        super().__init__(
            model=model, output=output, revision=revision, device=device, precision=precision, layer=layer,
            compile=compile,
        )  # fmt: skip

    def _states(self, model: Callable[..., Any], **inputs: Tensor) -> tuple[Any, Tensor]:
        outputs, last = super()._states(model, **inputs)
        if self.output != "patches":
            return outputs, last
        config: Any = self.model.config
        norm: Any = getattr(self.model, "post_layernorm", None)
        if norm is None or "clip" not in config.model_type:
            found = f"{self.name}: {type(self.model).__name__}"
            raise UserError("a CLIP gives its patches after its last norm", found, "leave output out")
        return outputs, norm(last[:, 1:])

    def prepare(self, value: Any) -> Image.Image:
        """The image."""
        return read_image(value)

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(tokens, D)`` per image."""
        found = [self._run({"pixel_values": pixels}) for pixels in self._views(values)]
        tokens = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        return [t.mean(axis=0, keepdims=True) for t in tokens] if self.output == "mean" else tokens

    def _views(self, values: Sequence[Any]) -> Iterator[Tensor]:
        """Pixels ``(n, C, H, W)`` of each view."""
        pixels = self.read(values).values
        yield pixels
        if self.views > 1:
            yield pixels.flip(-1)
        if self.views == 4:
            side = {"height": pixels.shape[2], "width": pixels.shape[3]}
            images = read_each(values, read_image)
            whole = self.processor(images, size=side, do_center_crop=False, return_tensors="pt")["pixel_values"]
            yield whole
            yield whole.flip(-1)

    def identity(self) -> dict[str, Any]:
        """As every model's; and the views."""
        return {**super().identity(), **({} if self.views == 1 else {"views": self.views})}

    def read(self, values: Sequence[Any]) -> Tokens:
        """What the model reads: pixels ``(n, C, H, W)``; the mask is ``(n, 1)``."""
        pixels = self.processor(read_each(values, read_image), return_tensors="pt")["pixel_values"]
        return Tokens(pixels, torch.ones(len(pixels), 1, dtype=torch.bool))

    def hidden(self, raw: Tokens) -> Tokens:
        """The last hidden state ``(n, T, D)`` of what :meth:`read` gave, with gradients."""
        values = as_sequence(self._states(self.model, **self.feed(raw))[1])
        return Tokens(values, raw.mask.expand(values.shape[:2]))

    def feed(self, raw: Tokens) -> dict[str, Tensor]:
        return {"pixel_values": raw.values}

    def _width(self) -> int:
        config = self.model.config
        if self.size is not None:
            self.processor.size = {"height": self.size, "width": self.size}
            self.processor.do_center_crop, self.processor.crop_size = False, None
        size = getattr(self.processor, "crop_size", None) or self.processor.size
        height = size.get("height") or size.get("shortest_edge") or getattr(config, "image_size", 224)
        width = size.get("width") or height
        channels = getattr(config, "num_channels", 3)
        try:
            return self._run({"pixel_values": torch.zeros(1, channels, height, width)})[0].shape[1]
        except (RuntimeError, ValueError) as error:
            if self.size is None:
                raise
            found = f"size={self.size}: {error}"
            raise UserError(f"the model {self.name!r} reads no such pictures", found, "leave size out") from error


@encoders.register("hf-audio")
class PretrainedAudio(Pretrained):
    """A model over sound, resampled to the model's rate.

    Args:
        model, output, revision, device, precision, layer, compile: see :class:`Pretrained`.
    """

    kinds = ("audio",)
    processor_class, tower = "AutoFeatureExtractor", "audio_model"

    def prepare(self, value: Any) -> tuple[np.ndarray, int]:
        """The clip at the model's rate."""
        return read_clip(value, self.processor.sampling_rate), self.processor.sampling_rate

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(tokens, D)`` per clip."""
        rate = self.processor.sampling_rate
        clips = read_each(values, lambda value: self._features(read_clip(value, rate)))
        out: list[np.ndarray] = [np.empty(0)] * len(clips)
        for shape in sorted({tensor.shape for _, tensor in clips}):
            rows = [i for i, (_, tensor) in enumerate(clips) if tensor.shape == shape]
            encoded = self._run({clips[rows[0]][0]: torch.cat([clips[i][1] for i in rows])})
            for row, tokens in zip(rows, encoded, strict=True):
                out[row] = tokens
        return out

    def feed(self, raw: Tokens) -> dict[str, Tensor]:
        return {self.processor.model_input_names[0]: raw.values}

    def _features(self, samples: np.ndarray) -> tuple[str, Tensor]:
        name = self.processor.model_input_names[0]
        features = self.processor(samples, sampling_rate=self.processor.sampling_rate, return_tensors="pt")
        return name, features[name].float()

    def _width(self) -> int:
        return hidden_size(self.model) * (len(self.layer) if isinstance(self.layer, list) else 1)


def as_sequence(hidden: Tensor) -> Tensor:
    """A sequence ``(B, T, D)`` as it is, a map ``(B, D, H, W)`` as ``H * W`` tokens, row-major."""
    return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers' loading bars and reports off for a moment; what matters of them is checked here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def hidden_size(model: nn.Module) -> int:
    """Width of the last hidden state, as the configuration says it.

    Raises:
        UserError: the configuration does not say it.
    """
    for name in ("hidden_size", "d_model", "n_embd", "dim"):
        if isinstance(getattr(model.config, name, None), int):
            return int(getattr(model.config, name))
    raise UserError(
        "the width of this model is not in its configuration",
        f"{type(model).__name__}",
        "use another model of the family",
    )
