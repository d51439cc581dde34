"""Backbones of a few thousand weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 12, 16, 20],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}

VIT: dict[str, Any] = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 8,
}

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "green", "blue", "white", "photo", "of", "thing"]


def write_bert(folder: Path, dropout: float = 0.0) -> Path:
    """A BERT of one layer over ``WORDS``, with its tokenizer, as a transformers folder."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    tokenizer.save_pretrained(folder)
    return folder


def write_resnet(folder: Path, size: int = 32) -> Path:
    """The tiny ResNet with its processor, as a transformers folder."""
    torch.manual_seed(0)
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**RESNET)).save_pretrained(folder)
    square = {"height": size, "width": size}
    transformers.ViTImageProcessorPil(size=square).save_pretrained(folder)
    return folder
