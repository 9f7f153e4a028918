"""Which operations of a graph an engine of the CPU backend computes in which precision.

The convolutions near the image are the most sensitive: values are large there, and lesion and skin differ little. So
are the last ones, which make the mask.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from xml.etree import ElementTree

import openvino

# Operations behind at most this many convolutions stay in fp32 in a bf16 engine: bf16 does nearly all of its harm
# there. With 18, both shipped models pass the parity check with a wide margin (docs/experiments).
FP32_CONVOLUTIONS = 18
CONVOLUTIONS = {"Convolution", "GroupConvolution"}

Depths = Mapping[str, int]  # convolutions on the longest path to an operation, by its name


def find_fp32_operations(graph: openvino.Model) -> set[str]:
    """Return the names of the operations behind at most FP32_CONVOLUTIONS convolutions.

    The set is empty if no convolution follows them: an engine called bf16 would be fp32 throughout.
    """
    depths = depths_from_image(graph)
    if max(depths.values()) <= FP32_CONVOLUTIONS:
        return set()
    return {name for name, depth in depths.items() if depth <= FP32_CONVOLUTIONS}


def mark_as_precise(xml: Path, names: Collection[str]) -> None:
    """Add OpenVINO's attribute "precise" to operations; its Python API has no function for that."""
    tree = ElementTree.parse(xml)  # noqa: S314 - OpenVINO wrote it
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in names and layer.get("type") not in {"Parameter", "Result"}:
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.SubElement(layer, "rt_info")
            ElementTree.SubElement(info, "attribute", name="precise", version="0")
    tree.write(xml)


def depths_from_image(graph: openvino.Model) -> Depths:
    """Return the convolutions on the longest path from the image to each operation, the operation included."""
    depths: dict[str, int] = {}
    for operation in graph.get_ordered_ops():
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        inputs = [value.get_node().get_friendly_name() for value in operation.input_values()]
        input_depths = [depths[input_name] for input_name in inputs if input_name in depths]
        if kind == "Parameter":
            depths[name] = 0
        elif input_depths and kind != "ShapeOf":  # shapes do not depend on the precision
            # A MatMul crops the image by coordinates that the network computed: its result is again an image.
            depths[name] = min(input_depths) if kind == "MatMul" else max(input_depths) + (kind in CONVOLUTIONS)
    return depths


def depths_from_outputs(graph: openvino.Model) -> Depths:
    """Return the convolutions on the longest path from each operation to an output, the operation included."""
    depths: dict[str, int] = {}
    for operation in reversed(graph.get_ordered_ops()):
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        readers = [target.get_node() for output in operation.outputs() for target in output.get_target_inputs()]
        later = [depths[reader.get_friendly_name()] for reader in readers if reader.get_friendly_name() in depths]
        if kind == "Result":
            depths[name] = 0
        elif later:
            depths[name] = max(later) + (kind in CONVOLUTIONS)
    return depths
