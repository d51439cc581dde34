"""The unimodal sub-networks in front of TFN and LMF, from section 3 of their specification, with the original names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.golden.cases import Case
from weft.tokens import Tokens, as_tokens

NAMES = ("audio", "video", "text")


class VectorNet(nn.Module):
    """BatchNorm, then three layers with ReLU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.linear_1, self.linear_2, self.linear_3 = (nn.Linear(n, hidden) for n in (width, hidden, hidden))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_3(self.linear_2(self.linear_1(self.norm(x)).relu()).relu()).relu()


class TextNet(nn.Module):
    """The last state of an LSTM, and a linear layer."""

    def __init__(self, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(width, hidden, batch_first=True)
        self.linear_1 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_1(self.rnn(x)[1][0][0])


class Unimodal(nn.Module):
    """The three sub-networks of a case, loaded."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        (a, v, t), (ha, hv, ht) = case.config["config"]["input_dims"], case.config["config"]["hidden_dims"]
        self.audio_subnet, self.video_subnet = VectorNet(a, ha), VectorNet(v, hv)
        self.text_subnet = TextNet(t, ht, case.config["config"]["text_out"])
        self.dims = {"audio": ha, "video": hv, "text": case.config["config"]["text_out"]}
        state = {key: value for key, value in params(case).items() if "subnet" in key}
        self.to(state["text_subnet.linear_1.weight"].dtype).load_state_dict(state)
        self.eval()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tokens]:
        return {name: as_tokens(getattr(self, f"{name}_subnet")(inputs[name])) for name in NAMES}


def params(case: Case) -> dict[str, Tensor]:
    """The recorded parameters under their original names."""
    return {key.removeprefix("param."): value for key, value in case.tensors.items() if key.startswith("param.")}


def inputs(case: Case) -> dict[str, Tensor]:
    """The recorded inputs, as leaves."""
    return {name: case.tensors[f"input.{name}_x"].clone().requires_grad_() for name in NAMES}


def close(ours: Tensor | None, recorded: Tensor, **where: Any) -> None:
    """Equal to 1e-10 in float64 and 1e-5 in float32."""
    tolerance = 1e-10 if recorded.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(ours, recorded, rtol=tolerance, atol=tolerance, msg=lambda m: f"{where}: {m}")


def check_gradients(case: Case, y: Tensor, x: Mapping[str, Tensor], gradient: Callable[[str], Tensor | None]) -> None:
    """Run backward from the recorded probe, compare every gradient; ``gradient`` takes an original parameter name."""
    (y * case.tensors["grad.probe"]).sum().backward()
    recorded = [key for key in case.tensors if key.startswith("grad.") and key != "grad.probe"]
    assert recorded
    for key in recorded:
        name = key.removeprefix("grad.input.").removeprefix("grad.param.")
        ours = x[name.removesuffix("_x")].grad if key.startswith("grad.input.") else gradient(name)
        close(ours, case.tensors[key], gradient=name)
