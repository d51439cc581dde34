r"""CoOp and CoCoOp: the words around a class name are learned, CLIP is frozen; Zhou et al. 2022 (IJCV; CVPR).

``C`` class names, ``B`` images, context of ``n`` tokens, text width ``D``, joint width ``E``, text length ``L``:

* the prompt of class ``c`` is ``[SOS | ctx_1 ... ctx_n | name_c . EOS]``, ``ctx (n, D)`` (shared) or ``(C, n, D)``
  (class-specific); the name stands at the end, in the middle (after ``n // 2`` context tokens) or in front;
* CoCoOp adds ``pi = W_2 relu(W_1 z) (B, D)`` of the normalised image feature ``z (B, E)`` to every context token, so
  each image has prompts of its own;
* ``logits_ic = exp(tau) z_i . g(prompt_ic) / |g(prompt_ic)|``, ``(B, C)``; the loss is their cross-entropy.

Cost: ``C`` text passes a step (CoOp), ``B C`` (CoCoOp), forward and back. They run in chunks of prompts, and each chunk
is computed again in the backward pass, so the memory of activations is that of one chunk whatever ``B C``; what grows
is one vector ``(E,)`` a prompt. A causal text model (CLIP) reads no further than the longest prompt's end.

When not to use it: with new classes to come, learned contexts (CoOp) fall below the hand-written template; CoCoOp loses
less and costs ``B`` times as much. With features of the images alone, a linear probe is far cheaper.

Code: KaiyangZhou/CoOp (MIT). Weights ``ctx`` and ``meta_net.*`` have its names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from weft.errors import UserError, some

Position = Literal["end", "middle", "front"]
PLACEHOLDER = "X"
RATIO = 16


@dataclass(frozen=True)
class Prompts:
    """Tokenised prompts: special tokens, ``n`` places for the context, name, full stop.

    Attributes:
        ids: ``(C, L)``.
        lengths: tokens of each bare name.
        start: tokens before the context, 1 or 0; None: 1 in a causal text model, else 0.
    """

    ids: Tensor
    lengths: tuple[int, ...]
    start: int | None = None


def tokenise(names: Sequence[str], tokenizer: Any, context: int, length: int, *, phrase: str = "") -> Prompts:
    """``<context> <name>.`` of every class, underscores as spaces, filled up to ``length`` tokens.

    Args:
        names: of the classes.
        tokenizer: of transformers.
        context: places for the context.
        length: of the text model.
        phrase: words of ``context`` tokens that stand in these places; empty: ``X``.

    Raises:
        UserError: a name without tokens, with unknown ones or the text model's end in it, or a prompt that is too long;
            by name.
    """
    (start, end), fill, unknown = ends(tokenizer), tokenizer.pad_token_id, tokenizer.unk_token_id
    places = plain_ids(tokenizer, phrase) if phrase else plain_ids(tokenizer, PLACEHOLDER)[:1] * context
    clean = [" ".join(name.replace("_", " ").split()) for name in names]
    bare = [plain_ids(tokenizer, name) for name in clean]
    bad = [name for name, ids in zip(names, bare, strict=True) if not ids or {end, unknown} & set(ids)]
    if bad:
        raise UserError("a class name is words that the tokenizer knows", some(bad), "rename these classes")
    rows = [start + places + plain_ids(tokenizer, f"{name}.") + [end] for name in clean]
    long = [name for name, row in zip(names, rows, strict=True) if len(row) > length]
    if long:
        raise UserError(
            f"a prompt has at most {length} tokens, {context} of context among them",
            some(long),
            "shorten these class names, or give a shorter context",
        )
    fill = end if fill is None else fill
    ids = torch.tensor([row + [fill] * (length - len(row)) for row in rows])
    return Prompts(ids, tuple(map(len, bare)), len(start))


def ends(tokenizer: Any) -> tuple[list[int], int]:
    """Ids that begin a text, one or none, and the one that ends it: CLIP's, SigLIP's or BERT's.

    Raises:
        UserError: the tokenizer has no end.
    """
    known = [(tokenizer.bos_token_id, tokenizer.eos_token_id), (tokenizer.cls_token_id, tokenizer.sep_token_id)]
    first, last = next((pair for pair in known if pair[1] is not None), (None, None))
    if last is None:
        raise UserError("a prompt has an end", f"{type(tokenizer).__name__} has none", "take another text model")
    return [] if first is None else [first], last


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


class MetaNet(nn.Module):
    """An image feature ``(B, E)`` to what is added to every context token ``(B, D)``."""

    def __init__(self, joint: int, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(joint, max(1, joint // RATIO))
        self.linear2 = nn.Linear(max(1, joint // RATIO), width)

    def forward(self, feature: Tensor) -> Tensor:
        out: Tensor = self.linear2(F.relu(self.linear1(feature)))
        return out


class PromptLearner(nn.Module):
    """All that is trained: the context, and the meta-net where prompts depend on the image.

    Args:
        context: ``(n, D)`` shared or ``(C, n, D)`` class-specific, to begin with.
        joint: ``E``, for a meta-net; None: CoOp.
        position: of the class name.

    Raises:
        UserError: a meta-net with class-specific contexts or with a name that is not at the end.
    """

    def __init__(self, context: Tensor, *, joint: int | None = None, position: Position = "end") -> None:
        super().__init__()
        if joint is not None and (context.ndim == 3 or position != "end"):
            raise UserError(
                "prompts that depend on the image share one context, with the class name at its end",
                f"context {tuple(context.shape)}, position={position!r}",
                "leave the meta-net out (CoOp), or share the context and end with the name",
            )
        self.position = position
        self.ctx = nn.Parameter(context.clone())
        self.meta_net = None if joint is None else MetaNet(joint, context.shape[-1])

    @property
    def places(self) -> int:
        """Context tokens."""
        return self.ctx.shape[-2]

    def contexts(self, feature: Tensor) -> Tensor:
        """Contexts ``(R, n, D)``: ``R = B`` of images, ``C`` of classes, or 1.

        Args:
            feature: normalised image features ``(B, E)``.
        """
        if self.meta_net is not None:
            return self.ctx + self.meta_net(feature)[:, None]
        return self.ctx if self.ctx.ndim == 3 else self.ctx[None]

    def order(self, lengths: Sequence[int], length: int, start: int) -> Tensor:
        """Which token of ``[SOS | context | name | rest]`` stands at each place ``(C, L)``."""
        before = {"end": self.places, "middle": self.places // 2, "front": 0}[self.position]
        rows = []
        for name in lengths:
            tokens = list(range(length))
            first, second = start + self.places, start + self.places + name
            rows.append(
                tokens[: start + before] + tokens[first:second] + tokens[start + before : first] + tokens[second:]
            )
        return torch.tensor(rows)


class CoopNet(nn.Module):
    """A frozen CLIP (or SigLIP) of transformers under a prompt learner.

    Args:
        clip: ``CLIPModel`` or ``SiglipModel``; frozen here.
        learner: of prompts.
        prompts: of the classes, see :func:`tokenise`.
        chunk: prompts of one text pass.

    Raises:
        UserError: class-specific contexts of another number of classes.
    """

    order: Tensor
    ids: Tensor

    def __init__(self, clip: Any, learner: PromptLearner, prompts: Prompts, *, chunk: int = 64) -> None:
        super().__init__()
        classes, length = prompts.ids.shape
        if learner.ctx.ndim == 3 and len(learner.ctx) != classes:
            raise UserError(
                "class-specific contexts belong to the classes they were learned for",
                f"contexts of {len(learner.ctx)} classes, {classes} names",
                "share the context to carry it over to other classes",
            )
        self.clip: Any = clip.requires_grad_(False).eval()
        self.prompt_learner, self.chunk = learner, chunk
        text: Any = self.clip.config.text_config
        self.causal = text.model_type.startswith("clip")
        self.start = int(self.causal) if prompts.start is None else prompts.start
        short = self.causal or getattr(clip, "masked", False)
        length = longest(prompts.ids, text.eos_token_id) if short else length
        self.register_buffer("ids", prompts.ids[:, :length], persistent=False)
        order = learner.order(prompts.lengths, length, self.start)
        self.register_buffer("order", order, persistent=False)

    def train(self, mode: bool = True) -> CoopNet:
        """The frozen model has no dropout in training either."""
        super().train(mode)
        self.clip.eval()
        return self

    def image_features(self, pixels: Tensor) -> Tensor:
        """Normalised features ``(B, E)`` of ``(B, 3, H, W)``; no gradient."""
        with torch.no_grad():
            return F.normalize(pooled(self.clip.get_image_features(pixel_values=pixels)), dim=-1)

    def text_features(self, feature: Tensor) -> Tensor:
        """Of every prompt, not normalised: ``(B, C, E)`` where prompts depend on the image, else ``(1, C, E)``.

        Args:
            feature: normalised image features ``(B, E)``.
        """
        contexts, classes = self.prompt_learner.contexts(feature), len(self.ids)
        images = 1 if self.prompt_learner.meta_net is None else len(feature)
        pair = torch.arange(images * classes, device=feature.device)
        which = pair % classes
        context = which if self.prompt_learner.ctx.ndim == 3 else pair // classes
        *chunks, last = zip(context.split(self.chunk), which.split(self.chunk), strict=True)
        parts = [checkpoint(self.encode, contexts, a, b, use_reentrant=False) for a, b in chunks]
        parts.append(self.encode(contexts, *last))  # the first to go backward: kept, not made again
        return torch.cat(parts).unflatten(0, (images, classes))

    def forward(self, feature: Tensor) -> Tensor:
        """Logits ``(B, C)`` of normalised image features ``(B, E)``."""
        text = F.normalize(self.text_features(feature), dim=-1)
        similarity = (text @ feature[..., None])[..., 0] if len(text) == len(feature) else feature @ text[0].T
        logits: Tensor = self.clip.logit_scale.exp() * similarity
        return logits

    def encode(self, contexts: Tensor, context: Tensor, which: Tensor) -> Tensor:
        """Text features ``(P, E)`` of prompts of classes ``which (P,)`` under ``contexts[context]``, ``(P,)``."""

        def insert(module: nn.Module, inputs: tuple[Tensor], embedded: Tensor) -> Tensor:
            return self.assemble(embedded, contexts[context], self.order[which])

        hook = self.clip.text_model.get_input_embeddings().register_forward_hook(insert)
        try:
            return pooled(self.clip.get_text_features(input_ids=self.ids[which]))
        finally:
            hook.remove()

    def assemble(self, embedded: Tensor, context: Tensor, order: Tensor) -> Tensor:
        """Put ``context (P, n, D)`` into embedded tokens ``(P, L, D)`` and bring them into ``order (P, L)``."""
        start, end = self.start, self.start + self.prompt_learner.places
        joined = torch.cat([embedded[:, :start], context, embedded[:, end:]], dim=1)
        return joined.gather(1, order[..., None].expand_as(joined))


def longest(ids: Tensor, end: int) -> int:
    """Tokens of the longest of the prompts ``(C, L)``, its end included.

    The text models of OpenAI say that their end is token 2, and mean the highest token of the row.

    Raises:
        UserError: a prompt has no end, so the text model would read none of it.
    """
    found = ids == (ids.amax(dim=1, keepdim=True) if end == 2 else end)
    if not found.any(dim=1).all():
        raise UserError(
            "every prompt ends with the end token of the text model",
            f"token {end} is missing in prompt {int((~found.any(dim=1)).nonzero()[0])}",
            "use the tokenizer that belongs to the model",
        )
    return int(found.int().argmax(dim=1).max()) + 1


def pooled(output: Any) -> Tensor:
    """The projected feature, which transformers 5 gives within an output and 4 by itself."""
    found: Tensor = getattr(output, "pooler_output", output)
    return found
