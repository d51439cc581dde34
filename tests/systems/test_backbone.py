"""Feature maps of transformers models with and without a backbone class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from tests.systems.tiny import RESNET
from weft.errors import UserError
from weft.systems.backbone import IMAGENET, Backbone, normalisation


def test_a_model_with_a_backbone_class(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(**RESNET)
    whole = transformers.AutoModel.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    backbone = Backbone(tmp_path).eval()
    image = torch.randn(2, 3, 64, 96)
    maps = backbone(image)
    assert [m.shape[1] for m in maps] == backbone.widths == [8, 12, 16, 20]
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    torch.testing.assert_close(maps[-1], whole(image).last_hidden_state)
    assert normalisation(tmp_path) == IMAGENET


def test_mobilenet_has_no_backbone_class(mobilenet: Path) -> None:
    backbone = Backbone(mobilenet).eval()
    assert backbone.widths == [24, 32, 96, 320]
    assert next(backbone.parameters()).dtype == torch.float32
    maps = backbone(torch.randn(1, 3, 96, 64))
    assert [tuple(m.shape[2:]) for m in maps] == [(24, 16), (12, 8), (6, 4), (3, 2)]
    whole = transformers.AutoModel.from_pretrained(mobilenet).float().eval()
    image = torch.randn(1, 3, 64, 64)
    states = whole(image, output_hidden_states=True).hidden_states
    torch.testing.assert_close(backbone(image)[2], [s for s in states if s.shape[-1] == 4][-1])
    assert normalisation(mobilenet)["mean"] == (0.5, 0.5, 0.5)


def test_measuring_the_strides_leaves_the_statistics_alone() -> None:
    backbone = Backbone(RESNET)
    means = [b for name, b in backbone.named_buffers() if name.endswith("running_mean")]
    assert means
    assert all((mean == 0).all() for mean in means)


def test_a_config_alone_builds_the_same_modules() -> None:
    first = Backbone(RESNET)
    again = Backbone(first.config)
    again.load_state_dict(first.state_dict())
    image = torch.randn(1, 3, 64, 64)
    for a, b in zip(first.eval()(image), again.eval()(image), strict=True):
        torch.testing.assert_close(a, b)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        Backbone(tmp_path)
    flat = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64}
    with pytest.raises(UserError, match="hierarchical"):
        Backbone({**flat, "intermediate_size": 8})


def test_incomplete_weights_are_refused(tmp_path: Path) -> None:
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**RESNET)).save_pretrained(tmp_path)
    config = transformers.AutoConfig.for_model(**{**RESNET, "depths": [1, 1, 1, 2]})
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="incomplete"):
        Backbone(tmp_path)
