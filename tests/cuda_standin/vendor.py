"""Replaces TensorRT or TensorRT for RTX: OpenVINO computes a plan in stream order on the CUDA stand-in.

Parser, profiles and settings are those of the real TensorRT for RTX. Two things are made here: the bytes of a plan (a
true header and the graph), and contexts that read and write device memory when their turn on the stream comes.
"""

import ctypes
import json
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import openvino
import tensorrt_rtx
from numpy.typing import NDArray

from cuda_standin import Driver, Function

HEADER_SIZE = 28
TYPES: dict[int, tuple[Any, type[np.generic]]] = {
    onnx.TensorProto.UINT8: (tensorrt_rtx.DataType.UINT8, np.uint8),
    onnx.TensorProto.FLOAT: (tensorrt_rtx.DataType.FLOAT, np.float32),
}
Arrays = dict[str, NDArray[Any]]


class Vendor(ModuleType):
    """Replaces the module `tensorrt` or `tensorrt_rtx`; missing names are those of the real module.

    A context needs `scratch_bytes` of the device. `distort` may change the outputs of a context. With a driver for an
    older CUDA than `cuda_major`, nothing can be created. `targets` are the GPUs that it compiles for; None: all.
    """

    def __init__(self, driver: Driver, magic: bytes, version: str) -> None:
        super().__init__("vendor")
        self.__spec__ = ModuleSpec("vendor", None)  # importlib.util.find_spec() reads it
        self.driver, self.magic, self.__version__ = driver, magic, version
        self.numbers = [int(part) for part in version.split(".")]
        self.scratch_bytes, self.cuda_major = 1 << 20, 13
        self.targets: tuple[str, ...] | None = None
        self.distort: Callable[[Arrays], None] = lambda outputs: None
        self.context_settings: list[dict[str, Any]] = []  # of every context
        self.failures: list[str] = []  # errors on a stream, where nothing can be raised

    def __getattr__(self, name: str) -> Any:
        return getattr(tensorrt_rtx, name)

    def check_driver(self, name: str, log: Any) -> None:
        """Raise what pybind11 raises if the library returns no object."""
        version = ctypes.c_int()
        self.driver.library.cuDriverGetVersion(ctypes.byref(version))
        if version.value < 1000 * self.cuda_major:
            log.log(tensorrt_rtx.ILogger.INTERNAL_ERROR, "CUDA initialization failure with error: 35")
            raise TypeError(f"{name}: factory function returned nullptr")

    def Builder(self, log: Any) -> "Builder":  # noqa: N802 - the vendor's name
        self.check_driver("Builder", log)
        return Builder(self, log)

    def OnnxParser(self, network: "Network", log: Any) -> "Parser":  # noqa: N802 - the vendor's name
        return Parser(network, log)

    def Runtime(self, log: Any) -> "Runtime":  # noqa: N802 - the vendor's name
        self.check_driver("Runtime", log)
        return Runtime(self, log)


class _Real:
    """Passes every other attribute on to the real object."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Network(_Real):
    """A network with the path of its ONNX file."""

    path: str


class Parser(_Real):
    def __init__(self, network: Network, log: Any) -> None:
        super().__init__(tensorrt_rtx.OnnxParser(network._real, log))
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        self._network.path = path
        return bool(self._real.parse_from_file(path))


class Builder(_Real):
    def __init__(self, vendor: Vendor, log: Any) -> None:
        super().__init__(tensorrt_rtx.Builder(log))
        self._vendor, self._log = vendor, log

    def create_network(self, flags: int) -> Network:
        return Network(self._real.create_network(flags))

    def create_optimization_profile(self) -> Any:
        self._profile = self._real.create_optimization_profile()
        return self._profile

    def build_serialized_network(self, network: Network, config: Any) -> bytes | None:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._vendor.driver.library.cuDeviceComputeCapability(ctypes.byref(major), ctypes.byref(minor), 0)
        if self._vendor.targets is not None and f"sm{major.value}{minor.value}" not in self._vendor.targets:
            text = f"Target GPU SM {major.value}{minor.value} is not supported by this TensorRT release."
            self._log.log(tensorrt_rtx.ILogger.ERROR, f"Error Code 9: API Usage Error ({text})")
            return None
        least, _, most = (tuple(shape) for shape in self._profile.get_shape(network.get_input(0).name))
        free = tuple(network.get_input(0).shape)
        about = json.dumps({"least": least, "most": most, "free": free}).encode()
        header = self._vendor.magic + bytes(20) + bytes(self._vendor.numbers)
        return header.ljust(HEADER_SIZE, b"\0") + about + b"\n" + Path(network.path).read_bytes()


class Runtime:
    def __init__(self, vendor: Vendor, log: Any) -> None:
        self._vendor, self._log = vendor, log

    def deserialize_cuda_engine(self, plan: bytes) -> "Engine | None":
        current = ctypes.c_void_p()
        self._vendor.driver.library.cuCtxGetCurrent(ctypes.byref(current))
        if not current:
            raise RuntimeError("invalid resource handle: no context is current in this thread")
        try:
            about, graph = plan[HEADER_SIZE:].split(b"\n", 1)
            return Engine(self._vendor, self._log, onnx.load_from_string(graph), **json.loads(about))
        except ValueError:  # a truncated plan: like the real one, log the error and return None
            self._log.log(tensorrt_rtx.ILogger.ERROR, "the plan cannot be deserialised")
            return None


class Engine:
    """The graph of a plan for input shapes (N, H, W, 3) between `least` and `most`; -1 in `free` is a dynamic side."""

    def __init__(
        self, vendor: Vendor, log: Any, graph: onnx.ModelProto, least: list[int], most: list[int], free: list[int]
    ) -> None:
        self.vendor, self.log, self.least, self.most = vendor, log, tuple(least), tuple(most)
        self._tensors: dict[str, Any] = {
            tensor.name: tensor.type.tensor_type for tensor in (*graph.graph.input, *graph.graph.output)
        }
        self.inputs = [tensor.name for tensor in graph.graph.input]
        self.free = tuple(free)
        self._graph = openvino.Core().read_model(graph.SerializeToString())
        self.device_memory_size_v2 = vendor.scratch_bytes
        self.num_io_tensors = len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return self.names()[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return TYPES[self._tensors[name].elem_type][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; a dynamic dimension of the network is -1, whatever the profile."""
        return self.shape_of(name, self.free)

    def shape_of(self, name: str, images: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a tensor if the input has shape `images`, (N, H, W, 3)."""
        taken = self._tensors[self.inputs[0]].shape.dim
        named = {dim.dim_param: side for dim, side in zip(taken, images, strict=True)}
        dims = self._tensors[name].shape.dim
        if name in self.inputs:
            return images
        return tuple(named[dim.dim_param] if dim.dim_param else dim.dim_value for dim in dims)

    def array_of(self, name: str, images: tuple[int, ...], address: int) -> NDArray[Any]:
        """Return a tensor in device memory; only a kernel may use it."""
        shape, kind = self.shape_of(name, images), np.dtype(TYPES[self._tensors[name].elem_type][1])
        size = int(np.prod(shape)) * kind.itemsize
        host_address = self.vendor.driver.device_memory(address, size)
        if host_address is None:
            raise RuntimeError(f"{name!r} has no memory of the device")
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host_address)).view(kind).reshape(shape)

    def compile(self, images: tuple[int, ...]) -> Any:
        self._graph.reshape(openvino.PartialShape(images))
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        return openvino.Core().compile_model(self._graph, "CPU", options).create_infer_request()

    def names(self) -> list[str]:
        return list(self._tensors)

    def run(self, requests: dict[tuple[int, ...], Any], addresses: dict[str, int], images: tuple[int, ...]) -> None:
        """Compute the graph on the memory at the addresses; runs in the thread of a stream, which cannot raise."""
        try:
            arrays = {name: self.array_of(name, images, address) for name, address in addresses.items()}
            if images not in requests:
                requests[images] = self.compile(images)
            results = requests[images].infer({name: arrays[name] for name in self.inputs})
            outputs = {output.any_name: np.array(value) for output, value in results.items()}
            self.vendor.distort(outputs)
            for name, value in outputs.items():
                arrays[name][:] = value
        except Exception as error:  # every test checks at its end that there was none
            self.vendor.failures.append(repr(error))

    def create_runtime_config(self) -> SimpleNamespace:
        return SimpleNamespace()

    def create_execution_context(self, settings: SimpleNamespace | None = None) -> "Context | None":
        self.vendor.context_settings.append({} if settings is None else vars(settings))
        scratch = ctypes.c_uint64()
        if self.vendor.driver.library.cuMemAlloc_v2(ctypes.byref(scratch), ctypes.c_size_t(self.device_memory_size_v2)):
            self.log.log(tensorrt_rtx.ILogger.ERROR, "out of memory")
            return None
        return Context(self, scratch)


class Context:
    """Runs the graph of a plan with the addresses and shape at the time of enqueueing; memory is read later."""

    def __init__(self, engine: Engine, scratch: ctypes.c_uint64) -> None:
        self._engine, self._scratch = engine, scratch
        self._addresses: dict[str, int] = {}
        self._images: tuple[int, ...] = ()
        self._requests: dict[tuple[int, ...], Any] = {}
        self._launched: list[Any] = []  # kept alive, because the driver calls them later

    def __del__(self) -> None:
        self._engine.vendor.driver.library.cuMemFree_v2(self._scratch)

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name not in self._engine.names():
            return False
        self._addresses[name] = int(address)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, most = self._engine.least, self._engine.most
        if not all(a <= side <= b for a, side, b in zip(least, shape, most, strict=True)):
            return False
        self._images = tuple(shape)
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if not self._images or set(self._addresses) != set(self._engine.names()):
            return False
        addresses, images = dict(self._addresses), self._images
        # Not the context, which must be freed when its last reference goes.
        run, requests = self._engine.run, self._requests
        self._launched.append(Function(lambda _: run(requests, addresses, images)))
        return self._engine.vendor.driver.launch(int(stream), self._launched[-1]) == 0
