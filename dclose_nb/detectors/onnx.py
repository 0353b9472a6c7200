"""Networks through ONNX Runtime, which runs convolutions on a CPU faster than PyTorch does."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

Network = Callable[[torch.Tensor], torch.Tensor]


def compiled(module: torch.nn.Module, input_size: tuple[int, int]) -> Network | None:
    """A network as it is now, for the processor: images of a batch run side by side.

    There are as many threads as PyTorch has. Each takes some images whole, which is faster than to
    share every layer of every image and to wait for each other after it. It takes half a second for
    a small network to be made, and nothing when asked again for the same.

    Parameters
    ----------
    module : torch.nn.Module
        From one tensor (B, 3, h, w) to one tensor (B, ...). Later changes do not reach what is
        returned.
    input_size : (h, w)

    Returns
    -------
    callable or None
        None, with a warning, where ONNX Runtime is missing or cannot run the network; without one
        where the network has hooks, which would not be called, or no weights of 32 bits on a CPU.
    """
    if {(one.device.type, one.dtype) for one in module.parameters()} != {("cpu", torch.float32)}:
        return None
    if any(one._forward_hooks or one._forward_pre_hooks for one in module.modules()):
        return None
    digest = hashlib.blake2b(repr(module).encode())
    for one in module.state_dict().values():
        digest.update(one.detach().contiguous().numpy())
    session = _session(_Network(digest.hexdigest(), module), input_size)
    if session is None:
        return None
    n_threads = torch.get_num_threads()

    def run(pixels: torch.Tensor) -> torch.Tensor:
        shares = np.array_split(pixels.contiguous().numpy(), min(n_threads, len(pixels)))
        outputs = _threads(n_threads).map(lambda share: session.run(None, {"pixels": share})[0], shares)
        return torch.from_numpy(np.concatenate(list(outputs)))

    return run


@dataclass(frozen=True)
class _Network:
    """A module that is told from others by its weights and layers."""

    digest: str
    module: torch.nn.Module = field(compare=False)


@lru_cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)


@lru_cache(maxsize=2)
def _session(network: _Network, input_size: tuple[int, int]) -> Any:
    try:
        import onnx  # noqa: F401  needed by the export
        import onnxruntime
    except ImportError as error:
        _slower(str(error))
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # beside the threads of `compiled`
    with TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        try:
            _export(network.module, input_size, file)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1]
            _slower(f"no ONNX of this one ({reason})")
            return None
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _slower(reason: str) -> None:
    warnings.warn(f"networks run in PyTorch, which is slower: {reason}", stacklevel=5)


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
