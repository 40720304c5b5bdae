"""ONNX Runtime: the only module that imports it, and only when a function needs it.

The library prints warnings, errors and advice of its own, from native code and from Python; none of it gets through.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, Literal

import onnx

from onnx_coreset.edge.arrays import BY_ADDRESS, Array, InputSpec, fetched, plain, specified
from onnx_coreset.edge.patience import Impatient, Patience, may_never_end, uninterrupted
from onnx_coreset.edge.provider import CPU, CUDA, Provider, obstacle
from onnx_coreset.edge.ranges import bring, files, mapped
from onnx_coreset.edge.silence import one_line, silenced
from onnx_coreset.edge.threads import cores
from onnx_coreset.errors import CoresetError, MachineError, UsageError

__all__ = ["InputSpec", "NeverEnding", "Provider", "RuntimeRefused", "Session", "accepts", "choose", "with_outputs"]

# float32 stays float32: TF32 would blur the errors that are measured. Chosen kernels must not change from run to run.
_CUDA_OPTIONS = MappingProxyType({"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
_OUT_OF_MEMORY = re.compile(r"failed to allocate memory|bad_alloc|bad allocation|out of memory|CUDA failure 2:", re.I)


class RuntimeRefused(Exception):
    """ONNX Runtime could not load or run a model; the message is the runtime's own, in one line.

    Whose fault that is depends on what was asked, so it is no error for users yet: the caller decides.
    """


class NeverEnding(RuntimeRefused):
    """A run took so long that it may never end; another one will not do better."""


def choose(wanted: Literal["auto", "cuda", "cpu"] = "auto") -> Provider:
    """Finds out what models can run on, by running one: what the library claims to have is not what it can start.

    Args:
        wanted: ``cuda`` insists, ``auto`` takes the CPU where there is no CUDA, ``cpu`` does not look.

    Returns:
        The provider, with the reason where it is the CPU.

    Raises:
        UsageError: ``wanted`` is none of the three.
        MachineError: ``cuda`` was wanted and cannot be had, or ONNX Runtime is missing or broken.
    """
    if wanted not in ("auto", "cuda", "cpu"):
        raise UsageError(f"unknown provider {wanted!r}; choose auto, cuda or cpu")
    if wanted == "cpu":
        return Provider(CPU, "the CPU was asked for")
    found = obstacle(_library())
    if found is None:
        return Provider(CUDA)
    reason, remedy = found
    if wanted == "cuda":
        raise MachineError(f"CUDA cannot be used: {reason}\n{remedy}, or choose --provider cpu")
    return Provider(CPU, reason)


def _library() -> Any:
    """Imports ONNX Runtime; one that we import first stays quiet, one that the caller uses keeps its settings."""
    first = "onnxruntime" not in sys.modules
    try:
        if first:
            # Importing looks for devices, and complains where a container hides them.
            with uninterrupted(), silenced():
                import onnxruntime
        else:
            import onnxruntime
        # An interrupted removal leaves a folder that can be imported and holds nothing.
        onnxruntime.InferenceSession  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise MachineError(
            f"ONNX Runtime is missing or broken ({one_line(str(error))})\nInstall it again: "
            "pip install --force-reinstall onnxruntime-gpu, or onnxruntime where there is no CUDA"
        ) from error
    if first:
        onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def _options(ort: Any, threads: int | None, optimise: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Left to itself the library pins its threads to cores, and complains where a container forbids that.
    options.intra_op_num_threads = threads or cores()
    options.use_deterministic_compute = True
    # Threads that spin while they wait take the cores that other work of this run, or of other runs, needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _failure(error: Exception) -> Exception:
    if isinstance(error, CoresetError):
        return error
    if isinstance(error, Impatient):
        return NeverEnding(str(error))
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return MachineError("memory is full while the model runs; free some, or ask for fewer --samples")
    return RuntimeRefused(one_line(str(error)) or type(error).__name__)


def _lend(options: Any, model: onnx.ModelProto | bytes, stack: ExitStack) -> onnx.ModelProto | bytes:
    """Lend the library maps of the files that hold a model's tensors; one that takes none gets the tensors."""
    if not isinstance(model, onnx.ModelProto) or not (paths := sorted(files(model))):
        return model
    if not hasattr(options, "add_external_initializers_from_files_in_memory"):
        return bring(model)
    maps = [stack.enter_context(mapped(path)) for path in paths]
    options.add_external_initializers_from_files_in_memory(paths, maps, [len(held) for held in maps])
    return model


def _serialised(model: onnx.ModelProto | bytes) -> bytes:
    if isinstance(model, bytes):
        return model
    try:
        data: bytes = model.SerializeToString()
    except MemoryError:
        raise
    except Exception as error:  # protobuf's error class depends on its implementation
        raise RuntimeRefused("the model has 2 GB or more, which cannot be handed over in memory") from error
    return data


class Session:
    """A model, ready to run, that prints nothing.

    Attributes:
        inputs: What it must be fed, in the graph's order; initializers that could be overridden are not among them.
        outputs: What it gives, in the graph's order.
        loops: Whether it holds a loop: what a run costs is then not known before, and may have no end.
        provider: What really runs it.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[InputSpec, ...]
    loops: bool
    provider: Provider

    def __init__(
        self,
        model: onnx.ModelProto | bytes,
        provider: Provider,
        *,
        threads: int | None = None,
        optimise: bool = True,
    ) -> None:
        """Loads a model.

        Args:
            model: The model, below 2 GB without the tensors that it refers to.
            provider: What is to run it, as ``choose`` gives it.
            threads: How many threads a single operator may use; None for as many as there are cores to use.
            optimise: Whether the runtime may fuse and fold nodes.

        Raises:
            RuntimeRefused: The runtime does not take the model.
            MachineError: Memory is full, or ONNX Runtime is missing.
        """
        ort = _library()
        wanted: list[Any] = [CPU] if provider.name == CPU else [(CUDA, dict(_CUDA_OPTIONS)), CPU]
        try:
            options = _options(ort, threads, optimise)
            with ExitStack() as stack:
                data = _serialised(_lend(options, model, stack))
                # The library's own way to fall back prints, and hides why.
                self._session = ort.InferenceSession(data, options, providers=wanted, enable_fallback=0)
        except Exception as error:
            raise _failure(error) from error
        self._ort = ort
        self.loops = may_never_end(data)
        self._patience = Patience(self.loops)
        name = self._session.get_providers()[0]
        self.provider = provider if name == provider.name else Provider(name, "CUDA did not start for this model")
        self.inputs = tuple(map(specified, self._session.get_inputs()))
        self.outputs = tuple(map(specified, self._session.get_outputs()))

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        """Runs the model once.

        Args:
            feeds: An array for each input, of the input's own element type.
            wanted: The outputs to compute; None for all.

        Returns:
            The outputs by name, in the order asked for; those that are no arrays of numbers are left out.

        Raises:
            RuntimeRefused: An array does not fit its input, a name is unknown, or an operator failed.
            MachineError: Memory is full.
        """
        others = {spec.name for spec in self.outputs if spec.dtype is None}
        asked = [spec.name for spec in self.outputs] if wanted is None else list(wanted)
        names = [name for name in asked if name not in others]
        arrays = {name: plain(array) for name, array in feeds.items()}
        kinds = [array.dtype for array in arrays.values()] + [s.dtype for s in self.outputs if s.name in names]
        try:
            if any(kind in BY_ADDRESS for kind in kinds if kind is not None):
                return self._run_by_address(arrays, names)
            # No names means all to the library: what is no array is then computed and dropped.
            values = self._ended(lambda options: self._session.run(names or None, arrays, options))
        except Exception as error:
            raise _failure(error) from error
        return dict(zip(names, values, strict=False))

    def _ended(self, call: Callable[[Any], Any]) -> Any:
        options = self._ort.RunOptions()
        options.log_severity_level = 4
        return self._patience.wait(call, options)

    def _run_by_address(self, arrays: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        kind = self._ort.OrtValue
        feeds = {
            name: kind.ortvalue_from_numpy_with_onnx_type(array, BY_ADDRESS[array.dtype])
            if array.dtype in BY_ADDRESS
            else kind.ortvalue_from_numpy(array)
            for name, array in arrays.items()
        }
        asked = list(names) or None
        values = self._ended(lambda options: self._session.run_with_ort_values(asked, feeds, options))
        dtypes = {spec.name: spec.dtype for spec in self.outputs}
        return {name: fetched(value, dtypes[name]) for name, value in zip(names, values, strict=False)}


def accepts(model: onnx.ModelProto | bytes) -> str | None:
    """Whether ONNX Runtime loads a model, on the CPU.

    Args:
        model: The model, all its tensors inside.

    Returns:
        None where it does, else what it says, in one line.

    Raises:
        MachineError: Memory is full, or ONNX Runtime is missing.
    """
    try:
        Session(model, Provider(CPU))
    except RuntimeRefused as refusal:
        return str(refusal)
    return None


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Lets tensors inside a model be seen from outside.

    Args:
        model: The model, which is not changed.
        names: Tensors of the main graph: results of nodes, inputs or initializers. Those that are outputs stay as they
            are; one that does not exist is refused when a session is made.

    Returns:
        A copy whose outputs are the model's own and then the named ones, without types: ONNX Runtime infers them.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    for name in dict.fromkeys(names):
        if name not in present:
            copy.graph.output.add().name = name
    return copy
