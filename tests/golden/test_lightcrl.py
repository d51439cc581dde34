"""LightCRL against every recorded case of the original: intermediate values, logits, loss and gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.golden.cases import golden, load
from weft.alignment.lightcrl import LightCRL, _rename
from weft.tokens import Tokens


def _run(path: Path):  # type: ignore[no-untyped-def]
    case = load(path)
    state = {key.removeprefix("sd."): value for key, value in case.tensors.items() if key.startswith("sd.")}
    operation = "multiplication" if case.config["op"] == "mul" else None
    module = LightCRL.from_official(state, heads=case.config["config"]["num_head"], operation=operation).eval()
    temperature = state["temperature"].clone().requires_grad_()
    inputs = {}
    for name, side in zip(module.names, "ab", strict=True):
        values = case.tensors[f"in.feat_{side}"]
        inputs[name] = Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))
    return case, module, temperature, inputs


@golden("lightcrl_text_*")
def test_forward_loss_and_gradients(path: Path) -> None:
    case, module, temperature, inputs = _run(path)
    exact = {"rtol": 0.0, "atol": 1e-10}
    for name, side in zip(module.names, "ab", strict=True):
        sequence, _ = module.encode(name, inputs[name])
        torch.testing.assert_close(module.context(name), case.tensors[f"ctx.{side}"], **exact)
        torch.testing.assert_close(sequence, case.tensors[f"out.sequence.{side}"], **exact)
        torch.testing.assert_close(module.embed(name, inputs[name]), case.tensors[f"out.average.{side}"], **exact)
    units = module(inputs)
    rows = units[module.names["ab".index(case.config["logits_rows"])]]
    columns = units[module.names[1 - "ab".index(case.config["logits_rows"])]]
    logits = temperature.clamp(0.01, 20).exp() * rows @ columns.T
    torch.testing.assert_close(logits, case.tensors["logits"], **exact)
    target = torch.arange(len(logits))
    cross_entropy = torch.nn.functional.cross_entropy
    loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(loss, case.tensors["loss"], **exact)
    grads = {key.removeprefix("grad."): v for key, v in case.tensors.items() if key.startswith("grad.")}
    if not grads:
        return
    loss.backward()
    torch.testing.assert_close(temperature.grad, grads.pop("temperature"), **exact)
    renamed = _rename(grads, module.names)
    own = {key: p.grad for key, p in module.named_parameters()}
    assert renamed.keys() == own.keys()
    for key, expected in renamed.items():
        torch.testing.assert_close(own[key], expected, **exact, msg=lambda m, key=key: f"{key}: {m}")


COUNTS = {
    "addition": 1_884_039,
    "multiplication": 1_884_039,
    "concatenation": 1_981_361,
    "additive": 2_015_880,
    "general": 1_949_831,
    "scaled_dot": 2_081_415,
}


@pytest.mark.parametrize(("operation", "count"), COUNTS.items())
def test_trainable_parameters_equal_the_published_table(operation: str, count: int) -> None:
    cost = LightCRL.cost({"text": 768, "image": 768}, 256, {"text": 57, "image": 197}, operation=operation)
    assert cost.parameters + 1 == count, "one more for the temperature, which the objective holds"
