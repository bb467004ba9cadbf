"""The stacks of `benchmarks.contexts` in PyTorch, on the weights of ours."""

from typing import Any

import torch
from torch.nn import functional

Params = dict[str, Any]


def norm(x: torch.Tensor, scale: torch.Tensor, smallest: float = 1e-6) -> torch.Tensor:
    """Divided by the root mean square; smallest: what is added to the mean square."""
    return functional.rms_norm(x, (x.shape[-1],), scale, smallest)


def rotary(x: torch.Tensor) -> torch.Tensor:
    """Pairs of coordinates of (B, N, T, d) turned by their positions 0 ... T - 1."""
    half = x.shape[-1] // 2
    frequencies = 10_000.0 ** (-torch.arange(half) / half)
    angles = torch.arange(x.shape[-2])[:, None] * frequencies
    first, second = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def attention(params: Params, x: torch.Tensor, num_heads: int, window: int) -> torch.Tensor:
    """scaled_dot_product_attention; a window that is shorter than the sequence is a mask."""
    batch, time, width = x.shape
    parts = (x @ params["input"]).view(batch, time, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = rotary(parts[0]), rotary(parts[1]), parts[2]
    mask = None
    if window < time:
        age = torch.arange(time)[:, None] - torch.arange(time)
        mask = (age >= 0) & (age < window)
    read = functional.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None)
    return read.transpose(1, 2).reshape(batch, time, width) @ params["output"]


def chunked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor,
    strength: torch.Tensor | None,
) -> torch.Tensor:
    """The recurrence of a matrix state from zeros, of (B, N, n, C, d), with scalar decays (B, N, n, C).

    strength: of the delta rule, or None.
    """
    since = log_decay.cumsum(-1)
    lower = torch.ones(query.shape[-2], query.shape[-2], dtype=torch.bool).tril()
    between = (since[..., :, None] - since[..., None, :]).masked_fill(~lower, float("-inf")).exp()
    within = (query @ key.mT) * between
    total = since[..., -1:]
    read, written = query * since.exp()[..., None], key * (total - since).exp()[..., None]
    inflow, system = value, None
    if strength is not None:
        square = strength[..., None] * ((key @ key.mT) * between).tril(-1)
        sides = strength[..., None] * torch.cat([key * since.exp()[..., None], value], dim=-1)
        solved = torch.linalg.solve_triangular(square, sides, upper=False, unitriangular=True)
        system, inflow = solved.split([key.shape[-1], value.shape[-1]], dim=-1)
    state = query.new_zeros(*query.shape[:2], key.shape[-1], value.shape[-1])
    outputs = []
    for i in range(query.shape[2]):
        now = inflow[:, :, i] if system is None else inflow[:, :, i] - system[:, :, i] @ state
        outputs.append(read[:, :, i] @ state + within[:, :, i] @ now)
        state = total[:, :, i, :, None].exp() * state + written[:, :, i].mT @ now
    return torch.stack(outputs, dim=2)


def matrix(params: Params, x: torch.Tensor, num_heads: int, chunk: int) -> torch.Tensor:
    """A matrix state with scalar decays; with the delta rule where there are strengths."""
    batch, time, width = x.shape

    def chunks(rows: torch.Tensor) -> torch.Tensor:
        return rows.view(batch, time // chunk, chunk, num_heads, -1).permute(0, 3, 1, 2, 4)

    query, key, value, gate = (x @ params["input"]).split(width, dim=-1)
    query, key, value = chunks(query), chunks(key), chunks(value)
    strength = None
    if "strength" in params:
        query, key = (rows * torch.rsqrt(rows.square().sum(-1, True) + 1e-12) for rows in (query, key))
        strength = chunks(torch.sigmoid(x @ params["strength"] + params["strength_bias"]))[..., 0]
    else:
        query = query * query.shape[-1] ** -0.5
    taken = functional.softplus(x @ params["decay"] + params["decay_bias"])
    log_decay = chunks(-params["decay_rate"].exp() * taken)[..., 0]
    # What is read is small, as ours says.
    read = norm(chunked(query, key, value, log_decay, strength), params["norm"], 1e-12)
    read = read.permute(0, 2, 3, 1, 4).reshape(batch, time, width)
    return (read * functional.silu(gate)) @ params["output"]


def logits(params: Params, tokens: torch.Tensor, num_heads: int, window: int, chunk: int) -> torch.Tensor:
    """Of the next token after each of tokens (B, T): (B, T, V)."""
    x, layer = params["embedding"][tokens], 0
    while f"layer_{layer}" in params:
        block = params[f"layer_{layer}"]
        normed = norm(x, block["mixer_norm"])
        if "norm" in block["mixer"]:
            x = x + matrix(block["mixer"], normed, num_heads, chunk)
        else:
            x = x + attention(block["mixer"], normed, num_heads, window)
        hidden = norm(x, block["feed_forward_norm"]) @ block["inside"]
        x = x + functional.gelu(hidden, approximate="tanh") @ block["last"]
        layer += 1
    return norm(x, params["norm"]) @ params["output_kernel"] + params["output_bias"]


def as_tensors(params: Params) -> Params:
    """Arrays of NumPy as leaves that gradients are taken of."""
    if isinstance(params, dict):
        return {name: as_tensors(value) for name, value in params.items()}
    return torch.from_numpy(params).requires_grad_()


def leaves(params: Params) -> list[torch.Tensor]:
    """All tensors of a tree."""
    if isinstance(params, dict):
        return [leaf for value in params.values() for leaf in leaves(value)]
    return [params]
