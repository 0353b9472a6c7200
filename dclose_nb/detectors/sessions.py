"""Networks that ONNX Runtime or OpenVINO runs on the CPU, both asked in the same way."""

from __future__ import annotations

import ast
import sys
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import checks
from ..checks import InputError

# NumPy's names of the types that inputs of detectors have, from those of ONNX Runtime and OpenVINO
DTYPES = {f"tensor({name})": name for name in ("float16", "int32", "int64")} | {"tensor(float)": "float32"}
DTYPES |= {"f16": "float16", "f32": "float32", "i32": "int32", "i64": "int64"}


class Port(NamedTuple):
    """An input of a network."""

    name: str
    dtype: str  # as NumPy calls it
    shape: tuple[int | str | None, ...]  # None and names stand for any length


class Session(ABC):
    """A network that is ready to run; several threads may ask it at once.

    Attributes
    ----------
    inputs : list of Port
    outputs : list of str
        Their names.
    """

    inputs: list[Port]
    outputs: list[str]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names that are kept in the file, if there are any that can be read."""
        try:
            return checks.class_names(self._kept_names())
        except (KeyError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # from anywhere
            return None

    def run(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Outputs for one tensor an input, in the order of `inputs`. Half precision is left inside."""
        arrays = [
            given.contiguous().numpy().astype(port.dtype, copy=False)
            for given, port in zip(inputs, self.inputs)
        ]
        outputs = map(torch.from_numpy, self._run(arrays))
        return [output.float() if output.is_floating_point() else output for output in outputs]

    @abstractmethod
    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]: ...

    @abstractmethod
    def _kept_names(self) -> Any: ...


class OnnxSession(Session):
    """An ONNX file's network on one thread: `threads` asks from several.

    Without onnxruntime an ImportError is raised; for a file that cannot be read, one of its own types.
    """

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # older exports bring a page of warnings, and errors are raised
        self._network = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.inputs = [
            Port(port.name, DTYPES.get(port.type, port.type), tuple(port.shape))
            for port in self._network.get_inputs()
        ]
        self.outputs = [port.name for port in self._network.get_outputs()]

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return self._network.run(None, {port.name: array for port, array in zip(self.inputs, arrays)})

    def _kept_names(self) -> Any:
        """Ultralytics writes them as a dictionary, {0: 'person', ...}."""
        listed = ast.literal_eval(self._network.get_modelmeta().custom_metadata_map["names"])
        return [listed[k] for k in range(len(listed))]


class OpenVinoSession(Session):
    """An `openvino.Model` with a stream for each of PyTorch's threads: `threads` asks from all at once."""

    def __init__(self, model: Any) -> None:
        threads = str(torch.get_num_threads())
        options = {
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # else all workers of a study share one core
            "INFERENCE_PRECISION_HINT": "f32",
        }
        place = ["model_info", "labels"]
        self._labels = model.get_rt_info(place).astype(str) if model.has_rt_info(place) else ""
        self._of_thread = threading.local()
        self._network = load_openvino().Core().compile_model(model, "CPU", options)
        self.inputs = []
        for port in self._network.inputs:
            kind = port.element_type.get_type_name()
            sides = (side.get_length() if side.is_static else None for side in port.partial_shape)
            self.inputs.append(Port(min(port.names, default=""), DTYPES.get(kind, kind), tuple(sides)))
        self.outputs = [min(port.names, default="") for port in self._network.outputs]

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        request = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._network.create_infer_request()
        return list(request.infer(arrays).to_tuple())

    def _kept_names(self) -> Any:
        """Ultralytics and OpenVINO's own tools write them in one line, with "_" for a space."""
        return [name.replace("_", " ") for name in self._labels.split()]


def load_openvino() -> Any:
    """The package `openvino`, without the report of its use that its import would send.

    A forked process sends the report, and a fork of a process that has threads can hang.
    """
    reporter = "openvino_telemetry"
    absent = reporter not in sys.modules
    if absent:
        sys.modules[reporter] = None  # type: ignore[assignment]  # so openvino takes its stub
    try:
        import openvino.frontend
    finally:
        if absent:
            del sys.modules[reporter]
    return openvino


def open_ir(file: Path) -> OpenVinoSession:
    """Open a network in OpenVINO's own form: an .xml file with its .bin file beside it.

    Without openvino an ImportError is raised, without the .bin file an `InputError`; for a file that cannot
    be read, one of its own types.
    """
    openvino = load_openvino()
    if not file.with_suffix(".bin").is_file():
        raise InputError(f"{file.name} needs {file.stem}.bin beside it, which holds its weights")
    reader = openvino.frontend.FrontEndManager().load_by_framework("ir")  # the only form that is tried
    return OpenVinoSession(reader.convert(reader.load(str(file))))
