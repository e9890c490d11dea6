"""The formats of an exported model: how each is written, and what answers by the file alone."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from litlab.inference.standalone import Standalone

Format = Literal["onnx", "torch_export", "safetensors"]

EXTENSIONS: dict[Format, str] = {"onnx": "onnx", "torch_export": "pt2", "safetensors": "safetensors"}

Answers = Callable[..., Sequence[Tensor]]
"""Gives the outputs of the inputs."""


def _program(model: Standalone) -> torch.export.ExportedProgram:
    return torch.export.export(model, model.example, dynamic_shapes={"inputs": model.dynamic_shapes()})


def _write_onnx(model: Standalone, metadata: Mapping[str, str], file: Path) -> Answers:
    import onnxruntime

    names, graph = model.file_names, _program(model)
    program: Any = torch.onnx.export(graph, input_names=names, output_names=model.output_names(), verbose=False)
    program.model.metadata_props.update(metadata)
    program.save(file, external_data=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def answers(*inputs: Tensor) -> Sequence[Tensor]:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, given)]

    return answers


def _write_torch_export(model: Standalone, metadata: Mapping[str, str], file: Path) -> Answers:
    written = io.BytesIO()  # a file would need the extension .pt2
    torch.export.save(_program(model), written, extra_files={"metadata.json": json.dumps(metadata)})
    file.write_bytes(written.getvalue())
    return torch.export.load(io.BytesIO(file.read_bytes())).module()


def _write_safetensors(model: Standalone, metadata: Mapping[str, str], file: Path) -> Answers:
    from safetensors.torch import load, save

    weights = {name: weight.clone() for name, weight in _weighted(model).state_dict().items()}  # those shared, too
    file.write_bytes(save(weights, dict(metadata)))
    anew = Standalone(model.data, deepcopy(model.module), model.batches)
    anew.is_classifier = model.is_classifier
    _weighted(anew).load_state_dict(load(file.read_bytes()))
    return anew


def _weighted(model: Standalone) -> nn.Module:
    """Return what a file of weights is of: the network `net`, or the whole module where there is none."""
    net = getattr(model.module, "net", None)
    return net if isinstance(net, nn.Module) else model.module


WRITERS: dict[Format, Callable[[Standalone, Mapping[str, str], Path], Answers]] = {
    "onnx": _write_onnx,
    "torch_export": _write_torch_export,
    "safetensors": _write_safetensors,
}
"""What writes a file, and gives what answers by that file alone."""
