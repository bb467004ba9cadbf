"""Which checkpoints of a training a longer one would have made too: from there it can be lengthened."""

from pathlib import Path

from lmseq.config.training import TrainConfig
from lmseq.training.checkpoint import drop_after, progress_by_step, steps_kept


def turning_point(workdir: Path, train: TrainConfig) -> int:
    """The newest checkpoint whose history a longer training shares; 0 where there is none at all.

    A training evaluates at its end, wherever that lies. A longer one evaluates there only where eval_every
    divides it; else what was recorded, and what is the best, may differ from then on, and a checkpoint before
    it is taken. The best one as of then must still be there. Raises ValueError where no checkpoint is like
    that.
    """
    steps, end = steps_kept(workdir), train.num_train_steps
    if not steps:
        return 0
    for step, progress in sorted(progress_by_step(workdir / "checkpoints").items(), reverse=True):
        is_shared = step < end or end % train.eval_every == 0
        if is_shared and (progress.best_step is None or progress.best_step in steps):
            return step
    raise ValueError(
        f"{workdir} cannot be extended bit for bit: it ended at step {end}, between evaluations "
        f"(eval_every={train.eval_every}), and keeps no checkpoint from before with the best one as of then: "
        "train anew in another --workdir"
    )


def turn_back(workdir: Path, train: TrainConfig) -> int:
    """Remove what a longer training would not have made, and say from where it goes on.

    The summary first, then checkpoints: after a kill anywhere the folder holds the shorter training,
    unfinished. Raises ValueError as `turning_point`, and then removes nothing.
    """
    step = turning_point(workdir, train)
    (workdir / "summary.json").unlink(missing_ok=True)
    if steps_kept(workdir):
        drop_after(workdir, step)
    return step
