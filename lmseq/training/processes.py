"""Several processes that train one model: what each has of an array, and what they tell each other.

`jax.distributed.initialize` makes them one run. Process 0 alone evaluates and writes. Every process calls the
functions here in the same order; in one process they cost nothing. Arrays lie on the devices of all; facts go
through the coordinator as JSON, so that a process may wait for another as long as that takes.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # the only way to the store of keys that the coordinator keeps
from jax.experimental import multihost_utils

Tree = TypeVar("Tree")

WEEK = 7 * 24 * 3600 * 1000  # milliseconds; a process that is gone is noticed by JAX's heartbeats long before
PLACE = "lmseq"  # the folder of keys
_turns = itertools.count()  # of exchanges: the same in every process


def is_first() -> bool:
    """Whether this is process 0, which evaluates, draws and writes."""
    return jax.process_index() == 0


def is_alone() -> bool:
    """Whether there is one process only."""
    return jax.process_count() == 1


def share(value: Any) -> list[Any]:
    """The values of all processes, in their order: each gives one of JSON, and waits for the others."""
    if is_alone():
        return [value]
    client, turn = distributed.global_state.client, next(_turns)
    folder, own = f"{PLACE}/{turn}", jax.process_index()
    if value is not None:  # what is not said is nothing
        client.key_value_set(f"{folder}/{own}", json.dumps(value))
    client.wait_at_barrier(folder, WEEK)
    said = {int(key.rpartition("/")[2]): json.loads(text) for key, text in client.key_value_dir_get(folder)}
    return [said.get(process) for process in range(jax.process_count())]


def of_first(compute: Callable[[], Any]) -> Any:
    """What process 0 computes, in every process. It is computed there alone, while the others wait."""
    if is_alone():
        return compute()
    return share(compute() if is_first() else None)[0]


def first_then_others(compute: Callable[[], Tree]) -> Tree:
    """What every process computes, the others after process 0: so they find what that leaves on disk."""
    if is_first():
        found = compute()
        share(None)
        return found
    share(None)
    return compute()


def put(tree: Tree, shardings: Any) -> Tree:
    """Arrays that every process has in full on their devices; a process sends its own devices' pieces."""
    if is_alone():
        return jax.device_put(tree, shardings)

    def piece(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf  # it was made by all processes together
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    shardings = jax.tree.broadcast(shardings, tree)
    return jax.tree.map(piece, tree, shardings)


def whole(tree: Tree) -> Tree:
    """The arrays in full: on a device of each process's own, and gathered on its host if they are spread."""
    if is_alone():
        return tree

    def of_leaf(leaf: jax.Array) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if leaf.is_fully_replicated:
            return leaf.addressable_data(0)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(of_leaf, tree)
