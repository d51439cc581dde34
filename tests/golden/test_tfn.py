"""TFN equals the published PyTorch network: output, product, gradients."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.golden.cases import golden, load
from tests.golden.unimodal import Unimodal, check_gradients, close, inputs, params
from weft.fusion.tensor import TensorFusion
from weft.ops.bilinear import outer, with_one


@golden("tfn")
def test_equal_to_the_original(path: Path) -> None:
    case = load(path)
    state = params(case)
    unimodal = Unimodal(case)
    fusion = TensorFusion.from_official(state, unimodal.dims).eval()
    x = inputs(case)
    h = unimodal(x)
    for name, tokens in h.items():
        close(tokens.values[:, 0], case.tensors[f"mid.{name}_subnet"], value=name)
    close(
        outer([with_one(t.values[:, 0]) for t in h.values()]), case.tensors["mid.fusion_tensor_flat"], value="product"
    )

    head = {k: v.clone().requires_grad_() for k, v in state.items() if k.startswith("post_fusion_layer_")}
    y = torch.relu(fusion(h).vector)
    y = torch.relu(y @ head["post_fusion_layer_2.weight"].T + head["post_fusion_layer_2.bias"])
    y = y @ head["post_fusion_layer_3.weight"].T + head["post_fusion_layer_3.bias"]
    y = torch.sigmoid(y) * state["output_range"] + state["output_shift"]
    close(y, case.tensors["output.y"], value="output")

    def gradient(name: str) -> Tensor | None:
        if name == "post_fusion_layer_1.weight":
            order = fusion.product.order
            nested = fusion.product.weight.grad.permute(0, *(order.index(m) + 1 for m in range(len(order))))
            return nested.flatten(1)
        if name == "post_fusion_layer_1.bias":
            return fusion.bias.grad
        return head[name].grad if name in head else unimodal.get_parameter(name).grad

    check_gradients(case, y, x, gradient)
