"""Checkpoints: Orbax for the arrays, digests of our own beside them, newest good one first.

A step holds three items: `params` (loaded alone by scoring and sampling), `rest` (optimiser state and
carry) and `progress` (JSON: digests, best validation loss, seconds spent); and `average`, the mean of the
weights, where a training keeps one, which is then what is loaded. Orbax writes under a temporary
name and renames, so a kill leaves whole steps; what it cannot notice is a flipped bit or an emptied
folder, so every restore compares SHA-256 digests and falls back to the step before.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from lmseq.contract import Model
from lmseq.training import processes
from lmseq.training.state import LoopState, TrainState
from lmseq.training.validated import mean_weights, with_mean, without_mean
from lmseq.types import Params

# What reading a damaged file may raise: Orbax and tensorstore raise anything, bare Exception included.
DAMAGE = Exception

Manager = ocp.CheckpointManager
Found = TypeVar("Found")


class Progress(NamedTuple):
    """What a run knows beside its arrays, and must not forget over a restart."""

    valid_loss: float | None = None  # at this very step, if it was evaluated
    best_valid_loss: float | None = None
    best_step: int | None = None
    seconds: float = 0.0  # spent until here, over all processes
    seconds_to_target_loss: float | None = None


class Restored(NamedTuple):
    """Where to begin: the newest good checkpoint, and a line for each newer one that was skipped."""

    step: int
    loop_state: LoopState
    progress: Progress
    skipped: tuple[str, ...]


def digest(tree: Any) -> str:
    """SHA-256 over the paths, dtypes, shapes and bytes of all leaves, in the tree's order.

    The same wherever they lie: what is spread over processes is gathered, in all of them.
    """
    sha = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(processes.whole(tree)):
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


# Orbax removes a step by renaming it into this folder, so that no kill leaves half of one; it leaves the
# emptying to us.
_DELETED = "deleted"


def _sweep(folder: Path) -> None:
    if processes.is_first():
        shutil.rmtree(folder / _DELETED, ignore_errors=True)


def _on_its_own() -> ocp.options.MultiprocessingOptions:
    """That a process does not wait for others."""
    if processes.is_alone():
        return ocp.options.MultiprocessingOptions()
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(own, {own}, f"process_{own}")


class LatestAndBest(preservation_policy.PreservationPolicy):
    """Keeps the `keep` latest steps and the one of lowest validation loss.

    `losses` are those of the steps that an earlier process saved; later ones come with their metrics. Orbax's
    own `BestN` does not know the former, which stand in `progress` and not in a file of Orbax's metrics.
    """

    def __init__(self, keep: int, losses: dict[int, float]) -> None:
        self._keep, self._losses = keep, losses

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each checkpoint, in order of step, whether it stays."""
        for info in checkpoints:
            if info.metrics is not None:
                self._losses[info.step] = info.metrics["valid_loss"]
        steps = [info.step for info in checkpoints]
        evaluated = [step for step in steps if step in self._losses]
        kept = {*steps[-self._keep :], min(evaluated, key=self._losses.__getitem__, default=None)}
        return [step in kept for step in steps]


def open_manager(workdir: Path, keep: int | None = None, *, shared: bool = True) -> Manager:
    """Orbax's manager of DIR/checkpoints; for reading only unless `keep` says how many latest to keep.

    shared: all processes of a run save together; else this one saves by itself.

    From then on the loggers `absl` and `asyncio` of this process tell critical messages only: Orbax also
    writes to them from its own threads, after a save has returned.
    """
    # Orbax tells dozens of lines of its life for every save, and a traceback of what it raises anyway.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    folder = (workdir / "checkpoints").absolute()
    if keep is None:
        options = ocp.CheckpointManagerOptions(read_only=True, multiprocessing_options=_on_its_own())
    else:
        _sweep(folder)
        folder.mkdir(parents=True, exist_ok=True)  # which Orbax does not do for some of several processes
        options = ocp.CheckpointManagerOptions(
            preservation_policy=LatestAndBest(keep, _valid_losses(folder)),
            todelete_subdir=_DELETED,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            **({} if shared else {"create": False, "multiprocessing_options": _on_its_own()}),
        )
    names = ("params", "rest", "progress", "average")
    return ocp.CheckpointManager(folder, options=options, item_names=names)


def progress_by_step(folder: Path) -> dict[int, Progress]:
    """What each checkpoint of a folder DIR/checkpoints knows beside its arrays; of those that can be read."""
    found = {}
    for path in folder.glob("*/progress/metadata"):
        name = path.parts[-3]
        try:
            facts = _checked_facts(json.loads(path.read_text(encoding="utf-8")), int(name))
            found[int(name)] = Progress(**{each: facts[each] for each in Progress._fields if each in facts})
        except DAMAGE:
            continue
    return found


def _valid_losses(folder: Path) -> dict[int, float]:
    """Validation losses by step, of the checkpoints that were evaluated and can be read."""
    known = progress_by_step(folder)
    return {step: each.valid_loss for step, each in known.items() if each.valid_loss is not None}


def steps_kept(workdir: Path) -> list[int]:
    """The steps of the checkpoints in a run's folder, damaged ones too; none where it has none."""
    folder = workdir / "checkpoints"
    return (
        sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
        if folder.is_dir()
        else []
    )


def drop_after(workdir: Path, step: int) -> None:
    """Remove the checkpoints of later steps; no kill leaves half of one."""
    folder = workdir / "checkpoints"
    for later in (each for each in steps_kept(workdir) if each > step):
        target = folder / _DELETED / f"{later}"
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        (folder / f"{later}").rename(target)
    _sweep(folder)


def _checked_facts(facts: dict[str, Any], step: int) -> dict[str, Any]:
    """What `save` wrote as progress of a step; ValueError when it has changed or moved since."""
    facts = dict(facts)
    if facts.pop("facts_digest") != _facts_digest(facts):
        raise ValueError("its digest is wrong")
    if facts.pop("step") != step:
        raise ValueError("it belongs to another step")
    return facts


def _facts_digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def save(manager: Manager, step: int, loop_state: LoopState, progress: Progress) -> None:
    """Save in the background; the arrays are copied before this returns, so they may be donated.

    All processes save together. Waits for the save before. Raises OSError when that one, or this, could not
    be written.
    """
    _wait(manager)
    arrays = _items(loop_state)
    digests = {f"{name}_digest": digest(tree) for name, tree in arrays.items()}
    facts = {**progress._asdict(), "step": step, **digests}
    items = ocp.args.Composite(
        progress=ocp.args.JsonSave({**facts, "facts_digest": _facts_digest(facts)}),
        **{name: ocp.args.StandardSave(tree) for name, tree in arrays.items()},
    )
    metrics = None if progress.valid_loss is None else {"valid_loss": progress.valid_loss}
    with _one_line_errors(manager):
        if not manager.save(step, args=items, metrics=metrics, force=True):
            raise RuntimeError(f"the checkpoint of step {step} was refused: a later one exists already")


def _items(loop_state: LoopState) -> dict[str, Any]:
    """The arrays of a state, or their shardings, by the item of a checkpoint that they stand in."""
    state = loop_state.state
    mean = mean_weights(state.opt_state)
    rest = (without_mean(state.opt_state), loop_state.carry)
    return {"params": state.params, "rest": rest} | ({} if mean is None else {"average": mean})


def save_params(workdir: Path, params: Params) -> None:
    """Save parameters that no training made, as step 0, from where `load_params` takes them.

    What is there already is kept: the parameters of a run are a function of its config and data.
    """
    nothing = np.zeros(1, np.int32)  # Orbax saves no empty tree
    save_first(workdir, LoopState(TrainState(np.int32(0), params, nothing), ()))


def save_first(workdir: Path, loop_state: LoopState) -> None:
    """Save a state as step 0, by this process alone, unless there are checkpoints already."""
    with open_manager(workdir, 1, shared=False) as manager:
        if manager.latest_step() is None:
            # From the host: of several processes, Orbax saves no array that lies on one's own device.
            save(manager, 0, jax.device_get(loop_state), Progress())
            _wait(manager)


@contextmanager
def _one_line_errors(manager: Manager) -> Iterator[None]:
    """What Orbax and tensorstore raise when they cannot write, as an OSError that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        why = str(error).split(": ")[-1].split(" [")[0][:200]
        raise OSError(
            f"cannot save a checkpoint in {manager.directory} ({why}): make room or allow writing there; "
            f"the same command goes on from step {manager.latest_step() or 0}"
        ) from error


def _wait(manager: Manager) -> None:
    """Until the last save is on disk and what it replaced is gone."""
    with _one_line_errors(manager):
        manager.wait_until_finished()
    _sweep(Path(manager.directory))


def close(manager: Manager) -> None:
    """Wait for the last save, and close. Raises OSError when it could not be written."""
    try:
        _wait(manager)
    finally:
        manager.close()


def _abstract(tree: Any, shardings: Any) -> Any:
    """Shapes, dtypes and shardings, without which Orbax restores tuples as lists on one device."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def restore_latest(manager: Manager, fresh: LoopState, shardings: LoopState) -> Restored:
    """The newest checkpoint whose digests are right, on the given shardings; `fresh` if there is none.

    Newer ones that are damaged are moved to DIR/checkpoints/damaged, so that their steps can be saved
    again. Raises ValueError when there are checkpoints and all are damaged; then nothing is moved.
    """
    damaged: dict[int, str] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            loop_state, progress = read(manager, step, fresh, shardings)
        except DAMAGE as error:
            damaged[step] = f"checkpoint {step} cannot be used: {brief(error)}"
            continue
        _set_aside(manager, list(damaged))
        return Restored(step, loop_state, progress, tuple(damaged.values()))
    if damaged:
        raise ValueError(
            f"every checkpoint is damaged ({'; '.join(damaged.values())}): start again in another workdir"
        )
    return Restored(0, fresh, Progress(), ())


def read(manager: Manager, step: int, fresh: LoopState, shardings: LoopState) -> tuple[LoopState, Progress]:
    """All of one step; raises one of DAMAGE when something is not as it was saved."""
    like, placed = _items(fresh), _items(shardings)
    items = ocp.args.Composite(
        progress=ocp.args.JsonRestore(),
        **{name: ocp.args.StandardRestore(_abstract(like[name], placed[name])) for name in like},
    )
    found = manager.restore(step, args=items)
    facts = _checked_facts(found.progress, step)
    for name in like:
        _check_digest(found[name], facts.pop(f"{name}_digest"))
    opt_state, carry = found.rest
    if "average" in like:
        opt_state = with_mean(opt_state, found.average)
    step_array = jax.device_put(np.int32(step), shardings.state.step)
    return LoopState(TrainState(step_array, found.params, opt_state), carry), Progress(**facts)


def _check_digest(tree: Any, expected: str) -> None:
    if digest(tree) != expected:
        raise ValueError("its digest is wrong")


def brief(error: Exception) -> str:
    """An error of ours as it is; of others only the kind, as they write paragraphs."""
    return str(error) if type(error) is ValueError and len(str(error)) < 80 else type(error).__name__


def _set_aside(manager: Manager, steps: list[int]) -> None:
    folder = Path(manager.directory)
    for step in steps:
        target = folder / "damaged" / f"{step}"
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        (folder / f"{step}").rename(target)
    if steps:
        manager.reload()


class Loaded(NamedTuple):
    """Parameters from a checkpoint, and the step at which they were saved."""

    params: Params
    step: int


def load_params(workdir: str | Path, model: Model, which: str = "latest") -> Loaded:
    """The parameters of a model from a folder that `fit` or a script trained it in.

    model: the one that was trained; it may be of any kind under the contract. which: `latest`, `best` by
    validation loss, or the number of a step; of a training that keeps a mean of the weights this is the mean,
    and with `.raw` behind it the weights themselves (`best.raw`). Raises ValueError when the folder has no
    checkpoint, when the one asked for is not there or damaged, when its parameters are not the model's, and
    for `.average` where there is none.
    """
    shape = jax.eval_shape(model.init, jax.random.key(0))
    like = _abstract(shape, _on_one_device(shape))

    def read_step(manager: Manager, step: int, item: str) -> Params:
        return _read_params(manager, step, like, item)

    return Loaded(*_load(Path(workdir), which, read_step))


def load_state(workdir: str | Path, like: LoopState, which: str = "latest") -> tuple[LoopState, int]:
    """All of a checkpoint, and its step, chosen as by `load_params`, which says what raises.

    like: a state of the same shapes and dtypes.
    """
    shardings = _on_one_device(like)

    def read_step(manager: Manager, step: int, item: str) -> LoopState:
        return read(manager, step, like, shardings)[0]

    return _load(Path(workdir), which, read_step)


def _on_one_device(tree: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda _: sharding, tree)


def _load(workdir: Path, which: str, read_step: Callable[[Manager, int, str], Found]) -> tuple[Found, int]:
    """What is read of the checkpoint that is asked for, and its step.

    read_step: of a manager, a step, and the item of the parameters that are asked for.
    """
    if not (workdir / "checkpoints").is_dir():
        raise ValueError(f"{workdir} has no checkpoint yet: train it further")
    while True:
        with open_manager(workdir) as manager:
            name, _, kind = which.partition(".")
            step = _chosen_step(manager, workdir, name)
            item = _chosen_item(manager, step, kind)
            try:
                return read_step(manager, step, item), step
            except DAMAGE as error:
                # A training that goes on has replaced it by a later one since it was listed.
                if not (Path(manager.directory) / f"{step}").exists():
                    continue
                raise ValueError(
                    f"checkpoint {step} of {workdir} cannot be used ({brief(error)}): "
                    "take another (latest, best or a step), or train again"
                ) from error


def _read_params(manager: Manager, step: int, like: Params, item: str) -> Params:
    """The parameters of one step; raises one of DAMAGE when they are not as they were saved."""
    items = ocp.args.Composite(progress=ocp.args.JsonRestore(), **{item: ocp.args.StandardRestore(like)})
    found = manager.restore(step, args=items)
    _check_digest(found[item], _checked_facts(found.progress, step)[f"{item}_digest"])
    return found[item]


def _chosen_item(manager: Manager, step: int, kind: str) -> str:
    """Which parameters of a step: the weights, or their mean where there is one."""
    if kind not in ("", "raw", "average"):
        raise ValueError(f"expected raw or average behind the checkpoint, got {kind!r}")
    has_average = (Path(manager.directory) / f"{step}" / "average").is_dir()
    if kind == "average" and not has_average:
        folder = Path(manager.directory).parent
        raise ValueError(
            f"{folder} keeps no average of its weights: train with --average, or ask for the raw ones"
        )
    return "average" if has_average and kind != "raw" else "params"


def _chosen_step(manager: Manager, workdir: Path, which: str) -> int:
    """The step of the latest or best checkpoint, or that which is asked for by its number."""
    steps = manager.all_steps()
    if not steps:
        raise ValueError(f"{workdir} has no checkpoint yet: train it further")
    if which.isdecimal():
        if int(which) not in steps:
            kept = ", ".join(map(str, sorted(steps)))
            raise ValueError(f"step {which} is not kept in {workdir}: choose one of {kept}")
        return int(which)
    if which not in ("latest", "best"):
        raise ValueError(f"expected checkpoint latest, best or a step, got {which!r}")
    if which == "latest":
        return max(steps)
    losses = _valid_losses(Path(manager.directory))
    if not losses:
        raise ValueError(f"no checkpoint has a validation loss in {workdir}: ask for the latest")
    return min(losses, key=lambda step: (losses[step], step))
