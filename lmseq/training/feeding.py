"""How a stream gets to the device: as a whole, or the windows of one dispatch after another."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from lmseq.data.partition import LONG, Plan
from lmseq.files import release
from lmseq.training.processes import put
from lmseq.training.sharding import plan_sharding, replicated
from lmseq.types import Stream

AHEAD = 3  # dispatches whose windows are gathered before they are asked for


class HostStream(NamedTuple):
    """A stream that stays on the host, such as a map of a file, and the inputs of a window of its plans."""

    stream: Stream
    num_steps: int


class Fed(NamedTuple):
    """What a dispatch trains on, on the device: a stream, and a plan of places in it."""

    stream: Stream
    plan: Plan


def as_elements(stream: Stream) -> Stream:
    """Token ids as int32, whatever they are stored in; values as they are."""
    return stream.astype(np.int32, copy=False) if np.issubdtype(stream.dtype, np.integer) else stream


def put_stream(stream: Stream, num_steps: int, mesh: Mesh) -> Stream | HostStream:
    """The stream on every device; a LONG one stays on the host."""
    if stream.size > LONG:
        return HostStream(stream, num_steps)
    return put(as_elements(stream), replicated(mesh))


def gather(host: HostStream, plan: Plan) -> Fed:
    """The windows of a plan one after the other as a stream of their own, and the plan of places in that.

    `take_batch` makes of both what it makes of the whole stream, to the bit: a dispatch is the same program.
    """
    width = host.num_steps + 1  # the inputs, and the last target
    places = plan.starts[..., None] + np.arange(width)
    windows = np.asarray(host.stream)[np.minimum(places, len(host.stream) - 1)]
    starts = width * np.arange(plan.starts.size, dtype=np.int32).reshape(plan.starts.shape)
    stream = as_elements(windows.reshape(-1, *host.stream.shape[1:]))
    release([host.stream])  # or a training would come to hold the whole file
    return Fed(stream, plan._replace(starts=starts))


def gather_rows(host: HostStream, plan: Plan, rows: np.ndarray) -> Fed:
    """The same of some rows of the batches; the plan has no places for the others.

    So a process reads what its own devices train on. To JAX the stream is one that is everywhere the same: it
    is not, but no device asks for another's rows.
    """
    fed = gather(host, Plan(plan.starts[:, rows], plan.lengths[:, rows], plan.resets))
    starts = np.zeros(plan.starts.shape, np.int32)
    starts[:, rows] = fed.plan.starts
    return Fed(fed.stream, plan._replace(starts=starts))


def rows_of(process: int, devices: Sequence[int], batch_size: int) -> Int[np.ndarray, "rows"]:
    """Which rows of a batch the devices of a process have, of the processes that each device belongs to.

    A process with fewer devices than another has some of its rows again: as many for all.
    """
    each = batch_size // len(devices)
    own = np.flatnonzero(np.asarray(devices) == process)
    rows = (each * own[:, None] + np.arange(each)).ravel()
    return np.resize(rows, each * max(Counter(devices).values()))


def feed(
    cuts: Sequence[tuple[int, int]],
    plan_of: Callable[[int, int], Plan],
    mesh: Mesh,
    tokens: Stream | HostStream,
) -> Iterator[Fed]:
    """What to train on in each cut (first, end) of the steps, in order, on the devices.

    Of a stream on the host, windows are gathered and sent AHEAD of time by a thread. Close it when done.
    """

    def of_device(first: int, end: int) -> Fed:
        return Fed(tokens, put(plan_of(first, end), plan_sharding(mesh)))

    def of_host(first: int, end: int) -> Fed:
        plan = plan_of(first, end)
        devices = [device.process_index for device in mesh.devices.flat]
        fed = gather_rows(tokens, plan, rows_of(jax.process_index(), devices, plan.starts.shape[1]))
        return put(fed, Fed(replicated(mesh), plan_sharding(mesh)))

    if not isinstance(tokens, HostStream):
        yield from (of_device(*cut) for cut in cuts)
        return
    pool, waiting = ThreadPoolExecutor(1), deque[Future[Fed]]()
    try:
        for cut in cuts:
            waiting.append(pool.submit(of_host, *cut))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
