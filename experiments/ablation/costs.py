"""What an ablation would cost: its cells, the programs that they make, and an estimate of the work."""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from experiments.ablation import running, together
from experiments.ablation.design import Cell, Design, label
from experiments.ablation.tables import grid
from experiments.frame.start import prepare_jax
from lmseq.compiled import num_cores
from lmseq.models.interface import count_parameters

FLOPS_A_TOKEN = 6  # and parameter: a product and a sum, forward once and backward twice (Kaplan et al. 2020)
SIDE = 1024  # of the matrices whose product measures the machine


def measured_rate() -> float:
    """Floating-point operations a second of a product of float32 matrices, here and now."""
    product = jax.jit(jnp.matmul)
    square = jnp.ones((SIDE, SIDE), jnp.float32)
    product(square, square).block_until_ready()
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        product(square, square).block_until_ready()
        times.append(time.perf_counter() - begun)
    return 2 * SIDE**3 / min(times)


def group_cost(group: together.Group) -> tuple[int, float] | str:
    """Parameters of a member, and operations of all trainings of a group; or why that cannot be said."""
    if group.configs is None:
        return "not known"
    try:
        with together.quietly():
            work = together.work_of(together.Group(group.cells[:1], group.configs[:1]))
    except ValueError as error:
        return f"error: {error}"
    num_parameters = count_parameters(jax.eval_shape(work.model.init, jax.random.key(0)))
    config = group.configs[0]
    tokens = config.train.num_train_steps * config.data.batch_size * work.batches.num_steps
    return num_parameters, FLOPS_A_TOKEN * num_parameters * tokens * len(group.cells)


def groups_of(design: Design) -> list[together.Group]:
    """All cells, in the groups that they would be run in."""
    if running.can_be_together(design):
        return together.groups(design)
    return [together.Group([cell], None) for cell in design.cells()]


def plan(design: Design, keep_programs: bool) -> str:
    """The settings and their seeds, how they are run, and what that takes, as text."""
    prepare_jax(num_cores(), keep_programs)
    groups = groups_of(design)
    costs = [group_cost(group) for group in groups]
    by_cell = {cell.name: (n, cost) for n, cost in enumerate(costs) for cell in groups[n].cells}
    setting_cells: dict[str, list[Cell]] = {}
    for cell in design.cells():
        setting_cells.setdefault(repr(cell.setting), []).append(cell)
    body = []
    for mine in setting_cells.values():
        number, cost = by_cell[mine[0].name]
        together = groups[number].configs is not None
        size = [cost, ""] if isinstance(cost, str) else [f"{cost[0]:,}", _flops(cost, groups[number], mine)]
        setting = [mine[0].setting.get(name, "") for name in design.names]
        body.append([*setting, _seeds(mine), f"program {number + 1}" if together else "processes", *size])
    table = grid([*design.names, "seeds", "run in", "parameters", "operations"], body)
    return table + "\n" + totals(design, groups, costs)


def _seeds(mine: Sequence[Cell]) -> str:
    return f"{mine[0].seed}" + (f" ... {mine[-1].seed}" if len(mine) > 1 else "")


def _flops(cost: tuple[int, float], group: together.Group, mine: Sequence[Cell]) -> str:
    return f"{cost[1] * len(mine) / len(group.cells):.2g}"


def totals(design: Design, groups: Sequence[together.Group], costs: Sequence[tuple[int, float] | str]) -> str:
    """How many cells, programs and processes, and how long the products of the trainings take at least."""
    programs = sum(group.configs is not None for group in groups)
    apart = sum(len(group.cells) for group in groups if group.configs is None)
    num_cells = len(design.settings) * design.config.seeds
    told = f"{num_cells} cells of {design.config.experiment}: {programs} programs, {apart} processes\n"
    known = [cost[1] for cost in costs if not isinstance(cost, str)]
    if not known:
        return f"{told}cost: not known ({label(design.fixed) if design.fixed else 'no fixed flags'})"
    rate = measured_rate()
    rest = "" if len(known) == len(costs) else f"; of {len(costs) - len(known)} groups it is not known"
    return (
        f"{told}cost: {sum(known):.3g} operations of training, at least {sum(known) / rate:,.1f} s at the "
        f"{rate / 1e9:,.0f} GFLOP/s of a matrix product here; small models reach a fraction of that, and "
        f"compiling and judging come on top{rest}"
    )
