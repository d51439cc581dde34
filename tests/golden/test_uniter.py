"""UNITER against vectors of the original code."""

import torch

from tests.golden.cases import golden, load
from weft.ops.ipot import cosine_cost, ipot, transport_distance
from weft.tokens import Tokens


@golden("uniter_ot")
def test_word_region_alignment(path):
    case = load(path)
    t, config = case.tensors, case.config["config"]
    single = t["input.txt_emb"].dtype == torch.float32
    close = {"rtol": 0, "atol": 1e-5 if single else 1e-10}
    text, image = (t[f"input.{name}_emb"].requires_grad_() for name in ("txt", "img"))
    x, y = Tokens(text, ~t["input.txt_pad"].bool()), Tokens(image, ~t["input.img_pad"].bool())
    settings = {"beta": config["beta"], "iterations": config["iteration"]}
    cost = cosine_cost(x, y)
    torch.testing.assert_close(cost, t["output.cost"], **close)
    torch.testing.assert_close(ipot(cost, x.mask, y.mask, **settings), t["output.plan"], **close)
    if "output.plan_after_1_iter" in t:
        first = ipot(cost, x.mask, y.mask, beta=config["beta"], iterations=1)
        torch.testing.assert_close(first, t["output.plan_after_1_iter"], **close)
    distance = transport_distance(x, y, **settings)
    torch.testing.assert_close(distance, t["output.distance"], **close)
    (distance * torch.linspace(0.5, 1.5, len(distance), dtype=distance.dtype)).sum().backward()
    torch.testing.assert_close(text.grad, t["grad.txt_emb"], **close)
    torch.testing.assert_close(image.grad, t["grad.img_emb"], **close)
