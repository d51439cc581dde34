"""Multi-source attention equals the original code: contexts, weights, and the decoder's sublayers.

What a case is, is read from its configuration. The original normalises over padding first and adds 1e-8 to the sum of
what is left: equal to ours within the tolerance of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.golden.cases import Case, golden, load
from tests.golden.unimodal import close, params
from weft.fusion.multi_source_additive import Combined, FlatAttention, HierarchicalAttention
from weft.fusion.multi_source_heads import CrossLayer
from weft.tokens import Tokens

Outputs = dict[str, Tensor]


def sources(case: Case, count: int, dtype: torch.dtype) -> list[Tokens]:
    return [
        Tokens(case.tensors[f"input.enc{k}_states"].to(dtype), case.tensors[f"input.enc{k}_mask"] != 0)
        for k in range(count)
    ]


def read(case: Case, config: Mapping[str, Any], module: FlatAttention | HierarchicalAttention) -> Combined:
    dtype = next(module.parameters()).dtype
    found = {name: case.tensors[f"input.{name}"].to(dtype) for name in ("query", "decoder_prev_state", "decoder_input")}
    assert (module.values is None) == config["share_attn_projections"]
    assert (module.sentinel is not None) == config["use_sentinels"]
    seen = torch.cat([found["decoder_prev_state"], found["decoder_input"]], dim=1) if module.sentinel else None
    return module.eval()(found["query"], sources(case, len(config["enc_dims"]), dtype), seen)


def flat(case: Case, config: Mapping[str, Any], dtype: torch.dtype) -> Outputs:
    got = read(case, config, FlatAttention.from_official(params(case)).to(dtype))
    count = len(config["enc_dims"])
    shares = got.weights.split(1, dim=1)
    over_positions = [share * within for share, within in zip(shares[:count], got.within, strict=True)]
    return {"context": got.context, "weights": torch.cat([*over_positions, *shares[count:]], dim=1)}


def hierarchical(case: Case, config: Mapping[str, Any], dtype: torch.dtype) -> Outputs:
    got = read(case, config, HierarchicalAttention.from_official(params(case)).to(dtype))
    inside = {f"child{k}_weights": within for k, within in enumerate(got.within)}
    states = [s.values for s in sources(case, len(config["enc_dims"]), dtype)]
    pooled = {
        f"child{k}_context": torch.einsum("bt,btd->bd", w, h)
        for k, (w, h) in enumerate(zip(got.within, states, strict=True))
    }
    return {"context": got.context, "weights": got.weights, **inside, **pooled}


def sublayer(case: Case, config: Mapping[str, Any], dtype: torch.dtype) -> Outputs:
    count = len(config["enc_lens"])
    heads = config["heads"]
    module = CrossLayer.from_official(
        params(case),
        config["kind"].removeprefix("transformer_"),
        heads * count if len(heads) == 1 else heads,
        config["heads_hier"] or 1,
    )
    assert {norm.eps for norm in module.norms} == {config["layer_norm_eps"]}
    out, _ = module.to(dtype).eval()(case.tensors["input.queries"].to(dtype), sources(case, count, dtype))
    return {"y": out}


BUILDERS: dict[str, Callable[[Case, Mapping[str, Any], torch.dtype], Outputs]] = {
    "flat": flat,
    "hier": hierarchical,
    **{f"transformer_{c}": sublayer for c in ("serial", "parallel", "flat", "hierarchical")},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@golden("multisource")
def test_equal_to_the_original(path: Path, dtype: torch.dtype) -> None:
    case = load(path)
    config = case.config["config"]
    found = BUILDERS[config["kind"]](case, config, dtype)
    recorded = {k.removeprefix("output."): v for k, v in case.tensors.items() if k.startswith("output.")}
    assert recorded
    for key, expected in recorded.items():
        close(found[key].to(expected.dtype), expected, value=key)
