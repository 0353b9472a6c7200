"""Networks through ONNX Runtime, which runs convolutions on a CPU faster than PyTorch does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from .. import checks
from . import weights
from .sessions import OnnxSession


def compiled(
    module: torch.nn.Module, input_size: tuple[int, int]
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Compile a network as it is now for the CPU; later changes do not reach what is returned.

    The network goes from one tensor (B, 3, h, w) to one tensor (B, ...). A small one takes half a
    second, and the same one no time when asked for again.

    Returns
    -------
    callable or None
        None, with a warning, where ONNX Runtime is missing or cannot run the network. None without
        a warning where it has hooks, which would not be called, or weights that are not of 32 bits on
        a CPU.
    """
    if {(weight.device.type, weight.dtype) for weight in module.parameters()} != {("cpu", torch.float32)}:
        return None
    if any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules()):
        return None
    session = _session(_Network(f"{weights.digest(module)} {module}", module), input_size)
    return None if session is None else lambda pixels: session.run(pixels)[0]


@dataclass(frozen=True)
class _Network:
    """A module that the cache tells from others by its weights and layers."""

    identity: str
    module: torch.nn.Module = field(compare=False)


@lru_cache(maxsize=2)
def _session(network: _Network, input_size: tuple[int, int]) -> OnnxSession | None:
    try:
        import onnx  # noqa: F401  needed by the export
        import onnxruntime  # noqa: F401

        with TemporaryDirectory() as folder:
            file = Path(folder) / "network.onnx"
            _export(network.module, input_size, file)
            return OnnxSession(file)
    except ImportError as error:
        reason = str(error)
    except Exception as error:  # the exporter's, and ONNX Runtime's own types
        reason = f"no ONNX of this one ({checks.line_of(error, -1)})"
    checks.warn(f"networks run in PyTorch, which is slower: {reason}")
    return None


@torch.inference_mode(False)
@torch.no_grad()
def _export(module: torch.nn.Module, input_size: tuple[int, int], file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, *input_size),),
            file,
            input_names=["pixels"],
            output_names=["output"],
            dynamic_axes={"pixels": {0: "batch"}, "output": {0: "batch"}},
            dynamo=False,  # the newer exporter takes ten times as long
        )
