"""What can be said of CUDA without a GPU: placement of real sessions read as if CUDA had been asked
for, what a device's failure means, and which device NVML is asked about.

onnxruntime's and NVML's own words stand in for a GPU; no code of ours does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from qgraph._graph.errors import EnvironmentFault, InputError, LimitError, QGraphError
from qgraph._graph.run.failures import failure
from qgraph._graph.run.provider import Provider, describe_device, describe_gpu, device_memory_in_use
from qgraph._graph.run.session import Session, open_session, require_placed

Build = Callable[..., onnx.ModelProto]
LOST = (
    "[ONNXRuntimeError] : 11 : EP_FAIL : Non-zero status code returned while running MatMul node."
    " Name:'product' Status Message: CUDA failure 719: unspecified launch failure ; GPU=0 ; "
    "hostname=box ; file=cuda_call.cc ; line=129 ; expr=cudaStreamSynchronize(stream)\nmore"
)
FULL = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: "
    "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 45088768"
)
OLD = (
    "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0 ;"
    " file=cuda_execution_provider.cc ; line=282 ; expr=cudaSetDevice(info_.device_id)"
)


@pytest.fixture
def session(build: Build) -> Session:
    weight = np.ones((3, 3), np.float32)
    text = "(float[N, 3] x) => (float[N, 3] y) { [product] h = MatMul(x, w) y = Relu(h) }"
    return open_session(build(text, w=weight))


def test_what_runs_where_it_was_asked_to_passes(session: Session) -> None:
    require_placed(session, Provider.CPU)


def test_a_compute_node_off_the_gpu_is_an_environment_fault_that_names_it(session: Session) -> None:
    with pytest.raises(EnvironmentFault, match=r"1 compute nodes .* 'product'") as caught:
        require_placed(session, Provider.CUDA)
    assert caught.value.exit_code == 4
    assert "--allow-cpu-nodes" in caught.value.hint


def test_nodes_that_only_move_and_shape_may_stay_on_the_cpu(build: Build) -> None:
    require_placed(
        open_session(build("(float[N] x) => (float[N] y) { y = Neg(x) }")), Provider.CUDA
    )


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        (LOST, EnvironmentFault, 4),
        (OLD, EnvironmentFault, 4),
        ("CUBLAS_STATUS: CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", EnvironmentFault, 4),
        (FULL, LimitError, 5),
        ("CUDA failure 2: out of memory ; GPU=0", LimitError, 5),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", LimitError, 5),
        ("Got invalid dimensions for input: x", InputError, 3),
    ],
)
def test_what_onnxruntime_says_of_a_gpu_has_its_exit_code(
    text: str, kind: type[QGraphError], code: int
) -> None:
    found = failure(RuntimeError(text), "failed", on_gpu=True)
    assert type(found) is kind and found.exit_code == code
    assert text.splitlines()[0] in found.message


@pytest.mark.parametrize(("text", "kind"), [(LOST, InputError), (FULL, LimitError)])
def test_on_the_cpu_a_failure_is_the_models_or_the_memorys(
    text: str, kind: type[QGraphError]
) -> None:
    assert type(failure(RuntimeError(text), "failed", on_gpu=False)) is kind


class Lost:
    """An onnxruntime session whose device goes away."""

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x")]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y")]

    def run(self, *_: Any) -> Any:
        raise RuntimeError(LOST)


def test_a_gpu_lost_in_the_middle_of_a_run_is_an_environment_fault() -> None:
    lost: Any = Lost()
    with pytest.raises(EnvironmentFault, match=r"GPU failed; .* launch failure"):
        Session(lost, Provider.CUDA).run({"x": np.ones(1, np.float32)})
    with pytest.raises(InputError):
        Session(lost, Provider.CPU).run({"x": np.ones(1, np.float32)})


def test_a_bound_run_has_the_inputs_that_were_fixed(build: Build) -> None:
    both = "(float[N] x, float[N] z) => (float[N] y) { y = Add(x, z) }"
    one = np.ones(3, np.float32)
    open_session(build(both)).fixing({"z": one}).bind({"x": one})()


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """NVML of a machine with two GPUs, as nvidia-ml-py gives it."""

    def memory(gpu: str) -> SimpleNamespace:
        return SimpleNamespace(total=8 << 30, used={"GPU-a": 1 << 20, "GPU-b": 2 << 20}[gpu])

    found = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: ("GPU-a", "GPU-b")[index],
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetName=lambda gpu: f"Test {gpu}".encode(),
        nvmlSystemGetDriverVersion=lambda: "570.1",
    )
    monkeypatch.setitem(sys.modules, "pynvml", found)
    return found


@pytest.mark.parametrize(
    ("visible", "used"), [(None, 1 << 20), ("1", 2 << 20), ("1,0", 2 << 20), ("GPU-b", 2 << 20)]
)
@pytest.mark.usefixtures("nvml")
def test_memory_is_that_of_the_gpu_that_cuda_uses(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, used: int
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_memory_in_use() == used


@pytest.mark.usefixtures("nvml")
def test_a_report_names_the_gpu_its_memory_and_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert describe_gpu() == "Test GPU-b, 8192 MiB, driver 570.1"
    assert describe_device(Provider.CUDA) == "Test GPU-b, 8192 MiB, driver 570.1"


def test_without_nvml_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert device_memory_in_use() is None
    assert describe_device(Provider.CUDA) == "cuda"
