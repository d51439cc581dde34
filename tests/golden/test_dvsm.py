"""D-VSM against vectors derived from its specification by explicit loops."""

import numpy as np
import torch
from torch.nn import functional as F

from tests.golden.cases import golden, load
from weft.systems.dvsm.graph import nearest, standardised
from weft.systems.dvsm.network import DvsmNet


@golden("dvsm")
def test_graph_answers_and_gradients(path):
    case = load(path)
    config = case.config["config"]
    t = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in case.tensors.items()}
    raw = [t[f"input.view{v}"].numpy() for v in range(len(config["view_dims"]))]
    train = np.flatnonzero(t["input.train_mask"].numpy())
    views = [standardised(view, train) for view in raw]
    for v, view in enumerate(views):
        np.testing.assert_allclose(view, t[f"inner.standardised{v}"], rtol=0, atol=1e-12)
    neighbours = nearest(views, config["k"])
    np.testing.assert_array_equal(neighbours, t["inner.neighbours"])
    net = DvsmNet(
        {str(v): d for v, d in enumerate(config["view_dims"])},
        config["labels"],
        width=config["d"],
        layers=config["layers"],
        heads=config["heads"],
    ).double()
    net.load_state_dict({n.removeprefix("state."): p for n, p in t.items() if n.startswith("state.")})
    net.eval()
    inputs = [torch.from_numpy(view) for view in views]
    per_view = net.answers(inputs, torch.from_numpy(neighbours))
    torch.testing.assert_close(per_view, t["output.logits_per_view"], rtol=0, atol=1e-10)
    logits = net(inputs, torch.from_numpy(neighbours))
    torch.testing.assert_close(logits, t["output.logits"], rtol=0, atol=1e-10)
    loss = F.multilabel_soft_margin_loss(logits[train], t["input.target"][train])
    torch.testing.assert_close(loss, t["output.loss"], rtol=0, atol=1e-10)
    loss.backward()
    grads = dict(net.named_parameters())
    checked = [name for name in t if name.startswith("grad.")]
    assert checked
    for name in checked:
        torch.testing.assert_close(grads[name.removeprefix("grad.")].grad, t[name], rtol=0, atol=1e-10)
