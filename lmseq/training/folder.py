"""The working folder of a training: which one it holds, its checkpoints and its records."""

import dataclasses
import hashlib
import re
from pathlib import Path

import jax
import numpy as np

from lmseq.config.training import TrainConfig
from lmseq.files import read_json, to_json, write_text
from lmseq.training import checkpoint, processes
from lmseq.training.checkpoint import Manager, Progress, Restored
from lmseq.training.job import Job
from lmseq.training.metrics import MetricsWriter, read_records
from lmseq.training.state import LoopState
from lmseq.training.watch import Record

FACTS = "fit.json"  # what a folder is a training of


def begin(workdir: Path, job: Job) -> None:
    """Make the folder, and note in it what is trained; ValueError where it holds anything else."""
    partition, spread = job.batches.partition, " in random windows" * job.batches.random_windows
    facts = {
        **dataclasses.asdict(job.train),
        "batch_size": job.batches.batch_size,
        "num_steps": job.batches.num_steps,
        "partition": partition + spread
        if isinstance(partition, str)
        else getattr(partition, "__name__", "a function"),
        "stream": f"{'tokens' if job.stream.ndim == 1 else 'values'} {job.stream.shape}",
        "stream_sha256": hashlib.sha256(np.ascontiguousarray(job.stream).tobytes()).hexdigest(),
        "model": described(job.model),
        "objective": described(job.objective),
    }
    path = workdir / FACTS
    if path.exists():
        began = read_json(path)
        if not isinstance(began, dict):
            raise ValueError(f"{path} is damaged: restore it, or choose another workdir")
        # What a later version has added stood at its default when the training began.
        began = dataclasses.asdict(TrainConfig()) | began
        differing = [
            f"{name}: {began.get(name)!r} -> {facts[name]!r}"
            for name in facts
            if began.get(name) != facts[name]
        ]
        if differing:
            raise ValueError(
                f"{workdir} holds another training ({'; '.join(differing)}): choose another workdir, or give "
                "the arguments that it began with"
            )
    elif any((workdir / name).exists() for name in ("config.json", "checkpoints")):
        raise ValueError(f"{workdir} holds a run that `fit` did not begin: choose another workdir")
    write_text(path, to_json(facts, indent=1) + "\n")


def described(value: object) -> str:
    """The same text for the same model or objective in every process: without places in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


class Folder:
    """What a training leaves on disk: checkpoints and records; nothing where there is no folder."""

    def __init__(self, workdir: Path | None, train: TrainConfig) -> None:
        self._workdir, self._keep = workdir, train.keep_checkpoints
        self._manager, self._writer = None, None
        self.records: list[Record] = []

    def restore(self, fresh: LoopState, shardings: LoopState) -> Restored:
        """The newest good checkpoint, or the fresh state; drops the records of what came after it."""
        if self._workdir is None:
            return Restored(0, fresh, Progress(), ())
        restored = _restore_together(self._workdir, fresh, shardings)
        self._manager = checkpoint.open_manager(self._workdir, self._keep)
        if processes.is_first():
            self._writer = MetricsWriter(self._workdir, restored.step)
            self.records = read_records(self._workdir / "metrics.jsonl", restored.step)
        return restored

    def write(self, record: Record) -> None:
        """Append a record to metrics.jsonl and TensorBoard's."""
        if self._writer is not None:
            self._writer.write(record["step"], {name: record[name] for name in record if name != "step"})

    def save(self, step: int, loop_state: LoopState, progress: Progress) -> None:
        """Save a checkpoint in the background."""
        if self._manager is not None:
            checkpoint.save(self._manager, step, loop_state, progress)

    def close(self) -> None:
        """Flush the records; wait for the last checkpoint, whatever ended the training."""
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            if self._manager is not None:
                checkpoint.close(self._manager)


def _restore_together(workdir: Path, fresh: LoopState, shardings: LoopState) -> Restored:
    """`restore_latest`, of a folder that several processes see; process 0 chooses the checkpoint.

    Of several each reads all of it, compares digests, and is left with its own devices' pieces: so a run goes
    on in any number of processes, and none waits for one that cannot read.
    """
    manager = checkpoint.open_manager(workdir)
    try:
        if processes.is_alone():
            return checkpoint.restore_latest(manager, fresh, shardings)
        host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        here = jax.tree.map(lambda _: host, shardings)
        found = checkpoint.restore_latest(manager, fresh, here) if processes.is_first() else None
        # Step 0 may be a checkpoint too, of what a run begins with.
        saved = None if found is None or found.loop_state is fresh else found.step
        chosen = processes.share(saved)[0]
        if found is None:
            found = _that_of_first(manager, chosen, fresh, here)
        return found._replace(loop_state=processes.put(found.loop_state, shardings))
    finally:
        manager.close()


def _that_of_first(manager: Manager, step: int | None, fresh: LoopState, shardings: LoopState) -> Restored:
    """The checkpoint that process 0 has chosen; ValueError where this process does not see it as it is."""
    if step is None:
        return Restored(0, fresh, Progress(), ())
    try:
        return Restored(step, *checkpoint.read(manager, step, fresh, shardings), ())
    except checkpoint.DAMAGE as error:
        raise ValueError(
            f"cannot read checkpoint {step} in {manager.directory}, which process 0 has read "
            f"({checkpoint.brief(error)}): name a --workdir that all processes see"
        ) from error
