"""The accelerators that can be compiled for, and the topologies that they come in."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

from experiments.frame.console import say

GIB = 1 << 30


class Chip(NamedTuple):
    """A kind of accelerator: whose, bytes of memory a device, and the shapes in which it is rented.

    gpu: of a GPU, what XLA has to know of it, as a GpuTargetConfigProto.
    """

    platform: Literal["tpu", "cuda"]
    memory: int
    shapes: tuple[str, ...]
    gpu: str = ""


FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
GPUS = ("1", "2", "4", "8", "16", "32", "64")  # eight in a host


def _gpu(name: str, cores: int, major: int, memory: int, bandwidth: int, cache: int, shared: int) -> str:
    """A GpuTargetConfigProto: compute capability `major`.0; bytes, and bytes a second."""
    return (
        "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 "
        f"shared_memory_per_core: {shared + 1024} threads_per_core_limit: 2048 core_count: {cores} "
        f"fpus_per_core: {128 if major > 8 else 64} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 "
        f"block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: {cache} clock_rate_ghz: 1.6 "
        f"device_memory_size: {memory} shared_memory_per_block_optin: {shared} "
        f"cuda_compute_capability {{ major: {major} }} registers_per_core_limit: 65536 "
        'registers_per_block_limit: 65536 } platform_name: "CUDA" '
        f'dnn_version_info {{ major: 9 minor: 8 }} device_description_str: "{name}"'
    )


A100, H100, H200 = 79 * GIB, 79 * GIB, 140 * GIB
CHIPS = {
    "v5e": Chip("tpu", 16 * GIB, FLAT),
    "v5p": Chip("tpu", 95 * GIB, CUBES),
    "v6e": Chip("tpu", 32 * GIB, FLAT),
    "a100": Chip("cuda", A100, GPUS, _gpu("A100", 108, 8, A100, 2_039 * 10**9, 40 << 20, 166_912)),
    "h100": Chip("cuda", H100, GPUS, _gpu("H100", 132, 9, H100, 3_352 * 10**9, 50 << 20, 232_448)),
    "h200": Chip("cuda", H200, GPUS, _gpu("H200", 132, 9, H200, 4_800 * 10**9, 50 << 20, 232_448)),
}


def parse(topology: str) -> tuple[str, str]:
    """The kind of chip and the shape that are named; ValueError, with those that there are, for another."""
    kind, _, shape = topology.partition(":")
    if kind in CHIPS and shape in CHIPS[kind].shapes:
        return kind, shape
    kinds = [kind] if kind in CHIPS else list(CHIPS)
    there = "; ".join(", ".join(f"{each}:{shape}" for shape in CHIPS[each].shapes) for each in kinds)
    raise ValueError(f"expected --topology to be one of {there}; got {topology!r}")


def check_compiler(chip: Chip) -> None:
    """Raise ValueError, with the command that installs it, where the compiler is not there."""
    module, extra = {"tpu": ("libtpu", "tpu"), "cuda": ("jax_cuda13_plugin", "gpu")}[chip.platform]
    if find_spec(module) is None:
        raise ValueError(f'the compiler of {extra.upper()}s is not installed: pip install -e ".[{extra}]"')


def prepare_environment() -> None:
    """What must stand before JAX is imported: compiling needs no accelerator, and none is to be taken."""
    if os.environ.get("JAX_PLATFORMS", "cpu") != "cpu":
        say(f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']} is not heeded: nothing is run, only compiled")
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else libtpu asks the network which TPU it is on
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")


def devices_of(kind: str, shape: str) -> Sequence[Any]:
    """The devices of a topology, as JAX describes them; none of them is there."""
    from jax.experimental import topologies

    chip = CHIPS[kind]
    if chip.platform == "tpu":
        alone = {"chips_per_host_bounds": (1, 1, 1)} if set(shape) <= set("1x") else {}
        name = f"{kind}:{shape}"
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **alone).devices
    count = int(shape)
    hosts = max(count // 8, 1)
    return topologies.get_topology_desc(
        platform="cuda", topology_name=kind, target_config=chip.gpu, topology=f"1x{hosts}x{count // hosts}"
    ).devices
