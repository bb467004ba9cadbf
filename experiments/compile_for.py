"""Compile a language model's run for accelerators that are not here: does it fit, and what do they send?

    python -m experiments.compile_for --topology=v5e:4x4 --model=lstm --hidden_size=1024 --batch_size=64

Takes the flags of train_lm, and compiles a dispatch of its training steps, scoring and sampling. For each it
prints the bytes on a device, the flops, the collectives, and the seconds of compilation. Flops and
collectives are as XLA counts them, the body of a loop once: of a training those of one step; of a GPU's
program flops are those of matrix products. The last line is a JSON object. The exit status is 1 where a
program does not fit.

Needs the accelerator's compiler: pip install -e ".[tpu]" or ".[gpu]". A GPU's own LSTM (cuDNN) is left out,
as it is tried on a GPU before it is trusted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.accelerators import chips
from experiments.frame import presets, start
from experiments.frame.console import say
from experiments.frame.experiment import Call, Experiment, main
from lmseq.config import knobs, language_model
from lmseq.config.knobs import knob
from lmseq.files import to_json


@dataclass(frozen=True)
class Options:
    """What to compile for."""

    topology: str = knob("v5e:2x2", "chips and how they are connected, such as v5e:4x4, v5p:2x2x2 or h100:8")


def compile_for(call: Call) -> int:
    """Compile, print the table and the figures; the exit status."""
    kind, shape = chips.parse(call.options.topology)
    chip, config = chips.CHIPS[kind], call.config
    _check(call)
    chips.check_compiler(chip)
    chips.prepare_environment()
    start.prepare_jax(keep_programs=False)
    from experiments.accelerators import analysis, programs
    from experiments.text.loading import load_texts
    from lmseq.models.build import build_model
    from lmseq.training.sharding import check_batch

    mesh = programs.mesh_of(chips.devices_of(kind, shape))
    check_batch(mesh, config.data.batch_size, config.train.accumulate_steps)
    texts = load_texts(config.data, call.given)
    sizes = programs.Sizes(len(texts.vocab), texts.ids["train"].size, texts.ids["valid"].size)
    model = build_model(config.model, sizes.vocab)
    found = programs.compile_all(programs.lowered(config, model, sizes, mesh), chip.memory)
    say(f"{mesh.size} devices of {kind}, {chip.memory / chips.GIB:.0f} GiB each")
    say(analysis.table(found))
    for line in _advice(config, chip):
        say(line)
    print(to_json(found), flush=True)
    return 0 if all(figures["fits"] for figures in found.values()) else 1


def _check(call: Call) -> None:
    """Raise ValueError for a flag of train_lm that means nothing here."""
    config = call.config
    if config.train.host_devices > 1:
        raise ValueError("host_devices does nothing here: --topology says how many devices there are")
    if config.model.backend in ("native", "cudnn"):
        raise ValueError(
            f"backend {config.model.backend} is found where it runs, not here: give backend auto or scan"
        )


def _advice(config: language_model.LanguageModelConfig, chip: chips.Chip) -> list[str]:
    """Lines on shapes that leave a part of a TPU idle: its tiles are of 8 rows by 128 columns."""
    if chip.platform != "tpu":
        return []
    lines = []
    if config.model.hidden_size % 128 and config.model.model != "linear":
        width = config.model.hidden_size
        lines.append(f"note: hidden_size={width} fills tiles of 128: {-(-width // 128) * 128} costs the same")
    if config.model.precision == "float32":
        lines.append("note: products in float32 take six passes of a TPU: --precision=bfloat16 takes one")
    return lines


def refuse(call: Call, workdir: Path, prepared: Any) -> dict[str, Any]:
    """Never reached: nothing is kept in a folder."""
    raise NotImplementedError


EXPERIMENT = Experiment(
    module="experiments.compile_for",
    doc=__doc__,
    config=language_model.LanguageModelConfig,
    options=Options,
    presets=presets.TRAIN_LM,
    check=language_model.check,
    left_out=knobs.names_of(language_model.CourseConfig),
    prepare=lambda call: None,
    run=refuse,
    without_workdir=compile_for,
    num_devices=None,
)

if __name__ == "__main__":
    main(EXPERIMENT)
