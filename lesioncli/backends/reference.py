"""The reference of the parity check: another implementation of the graph than the engine, where one is installed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lesioncli.backends import openvino
from lesioncli.backends.base import Outputs, predict_all
from lesioncli.backends.manifest import Manifest
from lesioncli.images.geometry import UInt8
from lesioncli.process import count_cores

OUTPUTS = ("mask", "scores")


@dataclass(frozen=True)
class Reference:
    """What an engine is compared with: fp32 outputs of network-sized images (H, W, 3), and who computes them."""

    library: str
    predict: Callable[[Sequence[UInt8]], Outputs]


def compute_reference(onnx: Path, manifest: Manifest, inputs: Sequence[UInt8], work: Path) -> tuple[str, Outputs]:
    """Run a graph in ONNX Runtime if it is installed and takes the graph, else in OpenVINO; `work` holds files.

    Returns the name of the library and the outputs.
    """
    problem = ""
    if find_spec("onnxruntime"):
        try:
            return _run_onnxruntime(onnx, inputs, manifest.batch)
        except Exception as error:  # an old release does not know the graph: its exceptions have no common base
            problem = f"; ONNX Runtime failed: {str(error).strip().splitlines()[0]}"
    outputs = predict_all(openvino.open_graph(onnx, manifest, work), inputs)
    return f"OpenVINO {openvino.VERSION.split('-')[0]}{problem}", outputs  # without the hash of its build


def _run_onnxruntime(onnx: Path, inputs: Sequence[UInt8], batch: int) -> tuple[str, Outputs]:
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # lesioncli uses the network only if it is asked to
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_cores()
    options.log_severity_level = 4  # fatal errors; others are exceptions
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    masks, scores = [], []
    for start in range(0, len(inputs), batch):
        group = np.stack(inputs[start : start + batch])
        padded = np.resize(group, (batch, *group.shape[1:]))  # a graph may have a fixed batch
        mask, score = session.run(OUTPUTS, {"image": padded})
        masks.append(mask[: len(group)])
        scores.append(score[: len(group)])
    return f"ONNX Runtime {onnxruntime.__version__}", Outputs(np.concatenate(masks), np.concatenate(scores))
