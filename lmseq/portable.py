"""A model as programs that run without this project: the contract in StableHLO, by `jax.export`.

Parameters are a dict of arrays by name and a carry is a tuple of arrays: no class of ours is needed to call
them. Where an array has a row for each sequence, its first dimension may be any number.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax import export
from jaxtyping import Array

from lmseq.contract import Model, covariates_of, first_carry, predict_directly
from lmseq.files import to_json
from lmseq.types import Element, LogProbs, OfValues, Params, Prediction

PLATFORMS = ("cpu", "cuda", "tpu")
PARAMS, FACTS, SUFFIX = "params.safetensors", "export.json", ".export"
Arrays = dict[str, np.ndarray]  # by the path of each in the tree of parameters, as in `parts.0.output_kernel`
REFUSALS = (jax.errors.InconclusiveDimensionOperation, NotImplementedError, ValueError)


class Portable(NamedTuple):
    """A model's parameters by name, its programs, and the arrays of a carry of one row.

    x is int32 (B,) of tokens, or float32 (B, D) of values.
    init_carry: (params, x) -> carry, of as many rows as x, whose values do not matter.
    update: (params, carry, x) -> carry.
    readout: (params, carry) -> ln p of each token, float32 (B, V); of values a dict of arrays (B, D), as one
        of `types.OfValues` calls them.
    readout_direct: the same of the next K values, (B, K, D), of a model that predicts them at once.
    """

    params: Arrays
    programs: dict[str, export.Exported]
    carry: tuple[jax.ShapeDtypeStruct, ...]


def by_name(params: Params) -> Arrays:
    """The leaves of a tree of parameters by their paths, on the host; ValueError for paths that are equal."""
    found = jax.tree.leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two parameters are called {twice}, and cannot be told apart: name one otherwise")
    # Not ascontiguousarray, which gives a number a dimension.
    return {name: np.asarray(leaf, order="C") for name, (_, leaf) in zip(names, found, strict=True)}


def portable(model: Model, params: Params, num_values: int = 0) -> Portable:
    """The contract of a model of tokens, or of so many values a step, for any rows, on each of PLATFORMS.

    Loops that are compiled for one processor cannot be taken along: build the model with backend `scan`.
    Raises ValueError, naming model and function, for one that calls such loops or the host, and for one whose
    shapes need a number of rows; and for one that reads covariates.
    """
    arrays = by_name(params)
    if covariates_of(model).total:
        raise ValueError(f"{_named(model)} reads covariates, which cannot be exported: train one without")
    (rows,) = export.symbolic_shape("rows")
    like = jax.eval_shape(lambda params: model.init_carry(params, 1), params)
    carry, structure = jax.tree.flatten(like)
    if any(leaf.shape[:1] != (1,) for leaf in carry):
        shapes = ", ".join(str(leaf.shape) for leaf in carry)
        raise ValueError(f"expected a row in each array of a carry of one row, {_named(model)} has {shapes}")
    given = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
    carries = tuple(jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype) for leaf in carry)
    shape, dtype = ((rows, num_values), jnp.float32) if num_values else ((rows,), jnp.int32)
    x = jax.ShapeDtypeStruct(shape, dtype)
    arguments = {"init_carry": (given, x), "update": (given, carries, x)}
    programs = {
        name: _exported(model, work, arguments.get(name, (given, carries)))
        for name, work in _flat_contract(model, jax.tree.structure(params), list(arrays), structure).items()
    }
    return Portable(arrays, programs, tuple(carry))


def _flat_contract(
    model: Model, params_tree: Any, names: list[str], carry_tree: Any
) -> dict[str, Callable[..., Any]]:
    """The contract on plain dicts and tuples."""

    def tree_of(params: Any) -> Params:
        return jax.tree.unflatten(params_tree, [params[name] for name in names])

    def init_carry(params: Any, x: Element) -> tuple[Array, ...]:
        return tuple(jax.tree.leaves(first_carry(model, tree_of(params), x)))

    def update(params: Any, carry: tuple[Array, ...], x: Element) -> tuple[Array, ...]:
        return tuple(jax.tree.leaves(model.update(tree_of(params), jax.tree.unflatten(carry_tree, carry), x)))

    def readout(params: Any, carry: tuple[Array, ...]) -> LogProbs | dict[str, Array]:
        return _plain(model.readout(tree_of(params), jax.tree.unflatten(carry_tree, carry)))

    def readout_direct(params: Any, carry: tuple[Array, ...]) -> dict[str, Array]:
        return _plain(predict_directly(model, tree_of(params), jax.tree.unflatten(carry_tree, carry)))

    direct = (readout_direct,) if hasattr(model, "readout_direct") else ()
    return {work.__name__: work for work in (init_carry, update, readout, *direct)}


def _plain(prediction: Prediction) -> LogProbs | dict[str, Array]:
    return prediction._asdict() if isinstance(prediction, OfValues) else prediction


def _exported(model: Model, work: Callable[..., Any], arguments: tuple[Any, ...]) -> export.Exported:
    try:
        with _without_places():
            found = export.export(jax.jit(work), platforms=PLATFORMS)(*arguments)
        found.serialize()  # which refuses what only this process can call
        return found
    except REFUSALS as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"{_named(model)} cannot be exported, its {work.__name__} says: {why}") from None


@contextmanager
def _without_places() -> Iterator[None]:
    """Programs that are lowered inside do not say where each line of ours lies on this machine."""
    flag = "jax_traceback_in_locations_limit"
    before = jax.config.values[flag]
    jax.config.update(flag, 0)
    try:
        yield
    finally:
        jax.config.update(flag, before)


def _named(model: Model) -> str:
    return type(getattr(model, "module", model)).__name__


def write_portable(folder: Path, found: Portable, facts: dict[str, Any]) -> dict[str, Any]:
    """Write parameters, programs and what is known of them into a folder; returns what `export.json` says.

    facts: what stands before it there.
    """
    from safetensors.numpy import save

    # Not its save_file, whose files only their owner may read.
    (folder / PARAMS).write_bytes(save(found.params))
    files = {}
    for name, program in found.programs.items():
        content = bytes(program.serialize())
        (folder / f"{name}{SUFFIX}").write_bytes(content)
        files[f"{name}{SUFFIX}"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    first = found.programs["readout"]
    known = facts | {
        "num_parameters": sum(array.size for array in found.params.values()),
        "carry": [{"dtype": str(leaf.dtype), "shape": ["rows", *leaf.shape[1:]]} for leaf in found.carry],
        "platforms": list(first.platforms),
        "calling_convention_version": first.calling_convention_version,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "programs": files,
    }
    (folder / FACTS).write_text(to_json(known, indent=1) + "\n", encoding="utf-8")
    return known
