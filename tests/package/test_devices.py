"""The device is chosen by what the machine (a fake one) can do, and every choice says why."""

from __future__ import annotations

import platform
import subprocess
import sys
import types
from typing import Any

import pytest
import torch

from creativewritinggpt import devices
from creativewritinggpt.devices import choose
from creativewritinggpt.errors import InputError


@pytest.fixture
def machine(monkeypatch: Any) -> Any:
    """A factory of machines: GPUs, bf16 or not, an Apple GPU, processor capabilities."""

    def make(
        gpus: int = 0,
        gpu_bf16: bool = True,
        built_with_cuda: bool = True,
        mps: bool = False,
        macos: int = 14,
        capabilities: dict[str, Any] | None = None,
    ) -> None:
        def properties(index: int) -> Any:
            assert index < gpus
            return types.SimpleNamespace(name=f"Fake GPU {index}", total_memory=24e9)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu_bf16
        )
        monkeypatch.setattr(torch.version, "cuda", "13.0" if built_with_cuda else None)
        monkeypatch.setattr(torch.version, "hip", None, raising=False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.backends.mps, "is_built", lambda: mps)
        monkeypatch.setattr(
            torch.backends.mps, "is_macos_or_newer", lambda *version: (macos, 0) >= version
        )
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities or {})
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    return make


def test_a_gpu_is_found_by_itself(machine: Any) -> None:
    machine(gpus=2, mps=True)
    choice = choose()
    assert (choice.device, choice.precision) == ("cuda", "bf16")
    assert choice.reasons["device"] == "a GPU was found: Fake GPU 0, 24 GB"
    assert choice.reasons["precision"] == "the GPU computes in bf16"
    assert choice.torch_device == torch.device("cuda")


def test_an_old_gpu_computes_in_fp32(machine: Any) -> None:
    machine(gpus=1, gpu_bf16=False)
    assert choose().precision == "fp32"
    forced = choose(precision="bf16")
    assert forced.precision == "bf16"
    assert "slower than fp32" in forced.reasons["precision"]


def test_an_apple_gpu_is_found_by_itself(machine: Any) -> None:
    machine(mps=True, built_with_cuda=False)
    choice = choose()
    assert (choice.device, choice.precision) == ("mps", "fp32")
    assert "Apple GPU" in choice.reasons["device"]
    assert choose(precision="bf16").precision == "bf16"


def test_bf16_on_an_apple_gpu_needs_macos_14(machine: Any) -> None:
    machine(mps=True, macos=13)
    assert choose().precision == "fp32"
    with pytest.raises(InputError, match="macOS 14"):
        choose(precision="bf16")


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16"),
        ({"avx512_f": True, "avx2": True}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_the_processor_computes_in_bf16_only_with_instructions_for_it(
    capabilities: dict[str, Any], precision: str, machine: Any, monkeypatch: Any
) -> None:
    machine(capabilities=capabilities, built_with_cuda=False)
    monkeypatch.setattr(devices, "product_seconds", lambda threads: {"fp32": 2.0, "bf16": 1.0})
    choice = choose()
    assert (choice.device, choice.precision) == ("cpu", precision)
    assert "bf16" in choice.reasons["precision"]
    assert choice.reasons["device"] == "no GPU was found: this torch is built without CUDA"


def test_bf16_that_is_slower_than_fp32_is_not_taken(machine: Any, monkeypatch: Any) -> None:
    machine(capabilities={"avx512_bf16": True})
    monkeypatch.setattr(devices, "product_seconds", lambda threads: {"fp32": 1.0, "bf16": 1.6})
    choice = choose("cpu")
    assert choice.precision == "fp32"
    assert "only 0.6 times as fast" in choice.reasons["precision"]
    assert choose("cpu", "bf16").precision == "bf16"


def test_a_torch_that_can_not_tell_computes_in_fp32(machine: Any, monkeypatch: Any) -> None:
    machine()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose("cpu").precision == "fp32"


def test_what_is_asked_for_is_taken(machine: Any) -> None:
    machine(gpus=2)
    assert choose("cpu", "fp32", 3) == devices.DeviceChoice(
        "cpu", "fp32", 3, {"device": "asked for", "precision": "asked for", "threads": "asked for"}
    )
    assert choose("CUDA:1").device == "cuda:1"
    assert choose("cuda:1").reasons["device"] == "asked for: Fake GPU 1, 24 GB"


@pytest.mark.parametrize(
    ("name", "said", "advice"),
    [
        ("cuda", "this torch is built without CUDA", "leave --device out"),
        ("cuda:0", "this torch is built without CUDA", "leave --device out"),
        ("mps", "no Apple GPU", "leave --device out"),
        ("gpu", "device is 'gpu'", "choose cpu, cuda"),
        ("cuda:x", "device is 'cuda:x'", "choose cpu, cuda"),
        ("tpu", "device is 'tpu'", "choose cpu, cuda"),
        ("", "device is ''", "choose cpu, cuda"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    name: str, said: str, advice: str, machine: Any
) -> None:
    machine(built_with_cuda=False)
    with pytest.raises(InputError) as caught:
        choose(name)
    assert said in caught.value.message
    assert advice in str(caught.value.advice)


def test_a_gpu_number_too_high_is_refused(machine: Any) -> None:
    machine(gpus=2)
    with pytest.raises(InputError, match="there are 2 GPUs") as caught:
        choose("cuda:2")
    assert "cuda:1" in str(caught.value.advice)


def test_other_precisions_and_threads_are_refused(machine: Any) -> None:
    machine()
    with pytest.raises(InputError, match="precision is 'fp16'"):
        choose("cpu", "fp16")
    with pytest.raises(InputError, match="threads is 0"):
        choose("cpu", threads=0)


def test_threads_are_one_for_each_core_unless_told(machine: Any, monkeypatch: Any) -> None:
    machine()
    monkeypatch.setattr(devices, "usable_cores", lambda: 16)
    monkeypatch.setattr(devices.psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    assert choose("cpu").threads == 8
    assert choose("cpu").reasons["threads"] == "one for each core"
    monkeypatch.setattr(devices, "usable_cores", lambda: 2)
    assert choose("cpu").threads == 2
    assert choose("cpu").reasons["threads"] == "as many as this process may use"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert choose("cpu").threads == 4
    assert choose("cpu").reasons["threads"] == "OMP_NUM_THREADS is 4"


def test_a_containers_limits_count(monkeypatch: Any) -> None:
    said = {
        "/sys/fs/cgroup/cpu.max": "150000 100000\n",
        "/sys/fs/cgroup/memory.max": "1000000\n",
        "/sys/fs/cgroup/memory.current": "400000\n",
    }
    monkeypatch.setattr(devices, "read_system_file", lambda path: said.get(path, ""))
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 8)
    if hasattr(devices.os, "sched_getaffinity"):
        monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(8)))
    assert devices.usable_cores() == 2
    assert devices.memory() == (1_000_000, 600_000)


def test_applying_a_choice_sets_the_threads() -> None:
    before = torch.get_num_threads()
    try:
        choose("cpu", "fp32", 1).apply()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_autocast_computes_in_bf16_and_leaves_weights_and_fp32_alone() -> None:
    layer, x = torch.nn.Linear(8, 8), torch.randn(2, 8)
    with choose("cpu", "bf16").autocast():
        assert layer(x).dtype == torch.bfloat16
    with choose("cpu", "fp32").autocast():
        assert layer(x).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


def test_memory_is_that_of_this_machine() -> None:
    total, free = devices.memory()
    assert 0 < free <= total
    assert 10e6 < devices.peak_memory_bytes() < total


def test_peak_memory_is_of_this_process_and_not_of_its_parent() -> None:
    program = "from creativewritinggpt.devices import peak_memory_bytes as p; print(p())"
    ballast = torch.ones(150_000_000)  # 600 MB here, which the child must not count
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(done.stdout) < 600e6, done.stderr
    assert devices.peak_memory_bytes() > 600e6
    del ballast


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_that_is_kept_is_not_asked_for_again() -> None:
    code = """
import resource, torch
from creativewritinggpt.devices import keep_freed_memory, release_freed_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(16 * 2**20).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
new_pages()
without = new_pages()
keep_freed_memory()
# A small object may take a piece of what was freed; after a few rounds one is left that fits.
print(without, min(new_pages() for _ in range(24)))
release_freed_memory()
print(new_pages())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    without, kept, after_release = map(int, done.stdout.split())
    assert kept < without / 2 < after_release


def test_a_gpus_memory_is_its_own(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 7))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3)
    assert devices.memory("cuda:0") == (7, 5)
    assert devices.peak_memory_bytes("cuda") == 3
