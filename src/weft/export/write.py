"""``weft export``: a graph is written, read again by the program that will run it and compared with the model; only
then does the file take its place.

Beside ``FILE`` lie ``FILE.json`` (inputs, shapes, what to do to a value first, outputs, classes) and ``FILE.npz``
(inputs and the model's own answers), so whoever runs it elsewhere can check it there.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from weft.errors import UserError, did_you_mean
from weft.export.graph import Graph
from weft.files import ask_file, to_json, write_bytes, writing
from weft.models.aligned import AlignedModel

Target = Literal["onnx", "torch-export"]
CLOSE, HOLDS = 1e-3, 0.05
"""The largest difference of an exported graph, and of its int8 form; of probabilities and unit vectors as they are, of
other outputs as a share of their largest value."""
SHAPES = ((4, 3), (1, 1), (5, 7))
"""Rows and tokens: the graph is traced on the first, tried on all."""


def export_model(model: Any, file: Path, to: str = "onnx", *, int8: bool = False) -> dict[str, Any]:
    """Write a model as one file, after it was found to give the model's answers.

    Args:
        model: what :func:`weft.load_model` gives.
        file: to write; ``.json`` and ``.npz`` are put beside it.
        to: ``"onnx"`` or ``"torch-export"``.
        int8: weights of matrix products as 8-bit numbers (ONNX).

    Returns:
        What was written: inputs, outputs, largest differences.

    Raises:
        UserError: the model cannot be exported, an extra is not installed, the graph's answers are others, or int8
            changes them too much.
    """
    if to not in get_args(Target):
        raise UserError("a model is exported to onnx or torch-export", repr(to), did_you_mean(to, get_args(Target)))
    if int8 and to != "onnx":
        raise UserError("int8 is for ONNX", f"--to {to} --int8", "leave out --int8, or export to onnx")
    if to == "onnx":
        need_onnx()
    ask_file(file)
    graph = Graph(model)
    graph.needs_all = bool(getattr(model, "needs_all", False))
    program = _traced(graph)
    tries = [(graph.sample(rows, tokens, seed), seed) for seed, (rows, tokens) in enumerate(SHAPES)]
    with torch.no_grad():
        expected = [graph(*inputs) for inputs, _ in tries]
    facts: dict[str, Any] = {}
    if to == "torch-export":
        sink = io.BytesIO()
        torch.export.save(program, sink)
        content = sink.getvalue()
        run = torch.export.load(io.BytesIO(content)).module()
        try:
            with torch.no_grad():
                found = [run(*inputs) for inputs, _ in tries]
        except Exception as error:
            raise _refused("the program does not take any number of rows and tokens", error) from error
        facts["difference"] = _compare(graph, expected, found, "the exported program")
    else:
        content, facts = _onnx(graph, program, [inputs for inputs, _ in tries], expected, int8)
    sample: dict[str, Any] = dict(zip(_inputs(graph), (t.numpy() for t in tries[-1][0]), strict=True))
    sample |= {f"{name} (expected)": t.numpy() for name, t in zip(graph.names, expected[-1], strict=True)}
    about = {"file": file.name, "to": to, **facts, **_about(model, graph)}
    kept = io.BytesIO()
    np.savez(kept, **sample)
    with writing(file):
        write_bytes(file.with_name(file.name + ".npz"), kept.getvalue())
        write_bytes(file.with_name(file.name + ".json"), to_json(about).encode())
        write_bytes(file, content)
    return about


def need_onnx() -> None:
    """Refuse to begin where the packages are missing."""
    gone = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if gone:
        raise UserError(
            "ONNX needs packages that are not installed",
            ", ".join(gone),
            "pip install 'weft[export]', or --to torch-export",
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the exporters tell of their own work, unsaid for a moment; what matters of it is checked here."""
    before, warned = logging.root.manager.disable, warnings.catch_warnings()
    logging.disable(logging.WARNING)
    with warned, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


def _inputs(graph: Graph) -> list[str]:
    return [name for door in graph.doors for name in door.names]


def _traced(graph: Graph) -> torch.export.ExportedProgram:
    dynamic = [dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for door in graph.doors for axes in door.free]
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(graph, graph.sample(*SHAPES[0]), dynamic_shapes=(tuple(dynamic),))
    except UserError:
        raise
    except Exception as error:
        raise _refused("the model cannot be traced with a free number of rows and tokens", error) from error


def _onnx(
    graph: Graph,
    program: torch.export.ExportedProgram,
    tries: list[tuple[Tensor, ...]],
    expected: list[tuple[Tensor, ...]],
    int8: bool,
) -> tuple[bytes, dict[str, Any]]:
    """The file's content, and how far its answers are from the model's."""
    names = _inputs(graph)
    with TemporaryDirectory() as place:
        path = Path(place) / "model.onnx"
        try:
            with quiet():
                torch.onnx.export(
                    program, (), path, input_names=names, output_names=graph.names, external_data=False, verbose=False
                )
        except Exception as error:
            raise _refused("ONNX has no form of this model", error) from error
        try:
            found = _run(path, names, tries)
        except Exception as error:
            raise _refused("ONNX Runtime cannot run this model", error) from error
        facts: dict[str, Any] = {"difference": _compare(graph, expected, found, "ONNX Runtime")}
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            small = Path(place) / "int8.onnx"
            with quiet():
                quantize_dynamic(path, small, weight_type=QuantType.QInt8)
            facts["int8_difference"] = _difference(graph, expected, _run(small, names, tries))
            facts["bytes"] = {"float32": path.stat().st_size, "int8": small.stat().st_size}
            if not facts["int8_difference"] <= HOLDS:
                most = f"largest difference {facts['int8_difference']:.3g}, at most {HOLDS} holds"
                raise UserError("int8 changes the answers of this model", most, "export it without --int8")
            path = small
        return path.read_bytes(), facts


def _run(path: Path, names: list[str], tries: list[tuple[Tensor, ...]]) -> list[list[Tensor]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    return [
        [torch.from_numpy(x) for x in session.run(None, {n: t.numpy() for n, t in feed.items() if n in wanted})]
        for feed in (dict(zip(names, inputs, strict=True)) for inputs in tries)
    ]


def _difference(graph: Graph, expected: list[Any], found: list[Any]) -> float:
    """The largest, see ``CLOSE``."""
    most = 0.0
    for right, other in zip(expected, found, strict=True):
        for name, a, b in zip(graph.names, right, other, strict=True):
            if a.shape != b.shape or not bool(torch.isfinite(b).all()):
                return float("inf")
            size = float(a.abs().max().clamp(min=1.0)) if name == "outputs" else 1.0
            most = max(most, float((a - b).abs().max()) / size)
    return most


def _compare(graph: Graph, expected: list[Any], found: list[Any], who: str) -> float:
    most = _difference(graph, expected, found)
    if not most <= CLOSE:
        raise UserError(f"{who} gives other answers than the model", f"largest difference {most:.3g}", "report this")
    return most


def _refused(what: str, error: Exception) -> UserError:
    lines = [line for line in re.sub("\x1b\\[[0-9;]*m", "", str(error)).strip().splitlines() if line.strip()]
    found = f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
    return UserError(what, found, "choose another operator, e.g. concat, gated, or a linear or boosted model")


def _about(model: Any, graph: Graph) -> dict[str, Any]:
    inputs = []
    for name, door in zip(graph.modalities, graph.doors, strict=True):
        for part, free, value in zip(door.names, door.free, door.sample(1, 1, torch.Generator()), strict=True):
            shape = [free.get(axis, size) for axis, size in enumerate(value.shape)]
            inputs.append({"name": part, "modality": name, "shape": shape, "dtype": str(value.dtype)[6:]})
    about: dict[str, Any] = {"model": type(model).__name__, "inputs": inputs, "outputs": graph.names}
    about["modalities"] = {n: door.about() for n, door in zip(graph.modalities, graph.doors, strict=True)}
    if not isinstance(model, AlignedModel):
        about |= {"target": model.target, "classes": model.task.labels, "task": model.task.config()}
    return about
