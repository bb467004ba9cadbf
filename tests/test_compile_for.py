"""What compile_for refuses, and how it reads a program; test_accelerators.py has it compile."""

import re
from importlib.util import find_spec

import pytest

from experiments.accelerators import analysis, chips
from tests.scripts import refusal

TEXT = """
%body (p: (f32[8,4], s32[])) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %w = f32[4,3]{1,0} parameter(1)
  %dot.1 = f32[8,3]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %gemm = (f32[4,3]{1,0}, s8[16]{0}) custom-call(%x, %dot.1), custom_call_target="__cublas$gemm", NUMBERS
  %sum = f32[] all-reduce(%y), channel_id=1
  %sums = (f32[4,3]{1,0}, bf16[2,2]{1,0}) all-reduce-start(%w, %v), channel_id=2
  %done = (f32[4,3]{1,0}, bf16[2,2]{1,0}) all-reduce-done(%sums)
  %gathered = (f32[2,3]{1,0}, f32[8,3]{1,0}) all-gather-start(%u), dimensions={0}
  ROOT %piece = s4[3]{0} reduce-scatter(%k), dimensions={0}
}
"""
NUMBERS = 'backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"]}}'
TEXT = TEXT.replace("NUMBERS", NUMBERS)


def test_collectives_are_counted_with_the_bytes_of_their_results():
    assert analysis.collectives_of(TEXT) == {
        "all-reduce": {"count": 2, "bytes": 4 + 48 + 8},
        "all-gather": {"count": 1, "bytes": 96},
        "reduce-scatter": {"count": 1, "bytes": 2},
    }


def test_flops_of_the_products_of_a_gpu():
    assert analysis.product_flops(TEXT) == 2 * 8 * 3 * 4 + 2 * 4 * 3 * 8


@pytest.mark.parametrize(
    ("line", "host", "wide"),
    [
        ('%c = f32[2] custom-call(%x), custom_call_target="xla_python_cpu_callback"', 1, 0),
        ("%t = token[] outfeed(%x)", 1, 0),
        ("%x = f64[2]{0} parameter(0)", 0, 1),
        ("%x = s64[] constant(1)", 0, 1),
        ("%x = u64[2]{0} iota()", 0, 0),
    ],
)
def test_what_does_not_belong_on_a_device_is_found(line, host, wide):
    assert (len(analysis.HOST.findall(line)), len(analysis.WIDE.findall(line))) == (host, wide)


@pytest.mark.parametrize(
    ("message", "peak"),
    [
        ("Ran out of memory in memory space hbm. Used 31.5G of 15.75G hbm", 31.5 * 2**30),
        ("total memory required for HLO temporaries (1.62T) exceeds available HBM (15.75G).", 1.62 * 2**40),
        ("something else", None),
    ],
)
def test_what_the_compiler_refuses_does_not_fit(message, peak):
    figures = analysis.out_of_memory(message, 2**34)
    assert figures["bytes"]["peak"] == (None if peak is None else round(peak)) and not figures["fits"]
    shown = analysis.table({"train_step": figures | {"compile_seconds": 0.1}})
    assert "NO" in shown and "none" in shown


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--topology=v5e:3x3", "one of v5e:1x1, v5e:2x2, .*v5e:16x16; got 'v5e:3x3'"),
        ("--topology=h100", "one of h100:1, h100:2"),
        ("--topology=b9:2", "one of v5e:1x1, .*h200:64; got 'b9:2'"),
        ("--host_devices=2", "host_devices does nothing here"),
        ("--model=lstm --backend=cudnn", "backend cudnn is found where it runs"),
        ("--backend=native", "backend native is found where it runs"),
        ("--hidden_size=0", "hidden_size"),
    ],
)
def test_a_mistake_is_one_line(scripts, flags, says):
    _, line = refusal(scripts.attempt("compile_for", *flags.split()))
    assert re.search(says, line), line


@pytest.mark.parametrize(
    ("topology", "module", "command"),
    [("v5e:2x2", "libtpu", ".[tpu]"), ("h100:8", "jax_cuda13_plugin", ".[gpu]")],
)
def test_a_compiler_that_is_not_installed_is_named_with_its_command(scripts, topology, module, command):
    if find_spec(module):
        pytest.skip("it is installed")
    _, line = refusal(scripts.attempt("compile_for", f"--topology={topology}"))
    assert line.endswith(f'is not installed: pip install -e "{command}"')


def test_every_chip_has_its_memory_and_its_shapes():
    for kind, chip in chips.CHIPS.items():
        assert chip.memory > 10 * chips.GIB and len(chip.shapes) == len(set(chip.shapes))
        assert chips.parse(f"{kind}:{chip.shapes[0]}") == (kind, chip.shapes[0])
        assert (chip.platform == "cuda") == bool(chip.gpu)
