"""A short, plain training of a sparse autoencoder, for controls alone: fixed steps, one seed, the decoder frozen if asked.

    loss = |x - decode(encode(x))|^2 / variance + 1/32 |residual - what dead features make of it|^2 / variance

Adam on batches drawn with a seed; the learning rate warms up and falls at the end; decoder rows have length one. Which
features are active follows the architecture, with the L0 of the dictionary that is imitated:

- `topk`, `abstopk`: the k largest of each token.
- `jumprelu`: the largest of a whole batch (BatchTopK), and in the end one threshold that gives the same L0.
- `standard`: the same, less the least of them, as if all biases were so much lower; in the end they are.

It is no way to make a good dictionary: SAELens's trainer is. It reads no files and knows no subject.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from glossator.config import ControlConfig
from glossator.types import content_id

TRAINABLE = ("topk", "abstopk", "jumprelu", "standard")
_RATE = 2e-3
_WARM = 0.05  # share of the steps
_FALL = 0.3
_AUXILIARY = 1 / 32
_DEAD = 50  # steps without a single activation


@dataclass(frozen=True)
class Shape:
    """What a trained control has in common with its dictionary."""

    architecture: str
    n_features: int  # a signed feature counts once
    l0: float  # active features a token
    frozen: bool  # the decoder stays as it was drawn


@dataclass
class _State:
    """Weights for activations of mean length sqrt(d), and what the loop must remember."""

    w_enc: Tensor
    b_enc: Tensor
    w_dec: Tensor
    b_dec: Tensor
    asleep: Tensor  # [n] steps since each feature was active

    def hidden(self, x: Tensor) -> Tensor:
        return torch.addmm(self.b_enc, x - self.b_dec, self.w_enc)


def train(data: Tensor, shape: Shape, config: ControlConfig, progress: Callable[[int, int], None]) -> dict[str, Tensor]:
    """Weights by SAELens's names, float32, for data [n, d] float32, a bias of the decoder being taken off the input first."""
    generator = seeded("trained", config.seed)
    d = data.shape[1]
    scale = d**0.5 / float(data.norm(dim=-1).mean().clamp(min=1e-12))
    state = _drawn(shape, data.mean(0) * scale, generator)
    variance = float((data - data.mean(0)).square().sum(-1).mean()) * scale**2
    learned = [state.w_enc, state.b_enc, state.b_dec, *([] if shape.frozen else [state.w_dec])]
    for weight in learned:
        weight.requires_grad_(True)
    adam = torch.optim.Adam(learned, lr=_RATE, betas=(0.9, 0.999))
    for step in range(config.steps):
        for group in adam.param_groups:
            group["lr"] = _RATE * _pace(step, config.steps)
        rows = torch.randint(len(data), (config.rows,), generator=generator).to(data.device)
        loss = _loss(state, data[rows] * scale, shape, max(variance, 1e-12))
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        if not shape.frozen:
            with torch.no_grad():
                state.w_dec /= state.w_dec.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        progress(step + 1, config.steps)
    with torch.no_grad():
        return _finished(state, data, scale, shape, config)


def seeded(what: str, seed: int) -> torch.Generator:
    """Numbers of our own: whoever trained the dictionary may have begun with the same small seed, and so the same weights."""
    return torch.Generator().manual_seed(int(content_id("control", what, seed)[:12], 16))


def _pace(step: int, steps: int) -> float:
    """The learning rate's share: up over the first steps, level, down to a tenth over the last."""
    warm, fall = max(1, int(_WARM * steps)), max(1, int(_FALL * steps))
    return min(1.0, (step + 1) / warm, 0.1 + 0.9 * (steps - step) / fall)


def _drawn(shape: Shape, mean: Tensor, generator: torch.Generator) -> _State:
    rows = torch.randn(shape.n_features, len(mean), generator=generator).to(mean.device)
    rows = rows / rows.norm(dim=-1, keepdim=True)
    zeros = torch.zeros(shape.n_features, device=mean.device)
    return _State(rows.T.clone().contiguous(), zeros.clone(), rows, mean.clone(), zeros.clone())


def _active(hidden: Tensor, shape: Shape) -> Tensor:
    """[tokens, n]: `hidden` where a feature is active, zero elsewhere, for the kinds without a fixed number a token."""
    bar = _bar(hidden.detach(), shape.l0)
    return torch.relu(hidden - bar) if shape.architecture == "standard" else torch.where(hidden > bar, hidden, 0.0)


def _coded(hidden: Tensor, shape: Shape, w_dec: Tensor) -> tuple[Tensor, Tensor]:
    """What the decoder makes of the active features [tokens, d]; how often each was active [n]."""
    if shape.architecture not in ("topk", "abstopk"):
        active = _active(hidden, shape)
        return active @ w_dec, (active.detach() > 0).sum(0)
    ranked = hidden.detach().abs() if shape.architecture == "abstopk" else hidden.detach()
    at = torch.topk(ranked, max(1, round(shape.l0)), dim=-1, sorted=False).indices
    value = hidden.gather(-1, at)
    if shape.architecture == "topk":
        value = torch.relu(value)
    made = torch.nn.functional.embedding_bag(
        at, w_dec, per_sample_weights=value, mode="sum"
    )  # 7 times faster than dense
    return made, torch.bincount(at[value != 0], minlength=hidden.shape[1])


def _loss(state: _State, x: Tensor, shape: Shape, variance: float) -> Tensor:
    hidden = state.hidden(x)
    made, times = _coded(hidden, shape, state.w_dec)
    residual = x - made - state.b_dec
    loss = residual.square().sum(-1).mean() / variance
    state.asleep = torch.where(times > 0, 0.0, state.asleep + 1)
    dead = torch.nonzero(state.asleep > _DEAD)[:, 0]
    if len(dead):
        loss = loss + _AUXILIARY * _auxiliary(state, hidden[:, dead], dead, residual.detach()) / variance
    return loss


def _auxiliary(state: _State, hidden: Tensor, dead: Tensor, residual: Tensor) -> Tensor:
    """How badly the strongest dead features make up for what the others leave: so that they come to be used."""
    found = torch.topk(hidden, min(len(dead), max(1, residual.shape[1] // 2)), dim=-1, sorted=False)
    coded = torch.zeros_like(hidden).scatter(-1, found.indices, torch.relu(found.values))
    return (residual - coded @ state.w_dec[dead]).square().sum(-1).mean()


def _finished(state: _State, data: Tensor, scale: float, shape: Shape, config: ControlConfig) -> dict[str, Tensor]:
    """The weights for data as it is. Features keep their sizes relative to each other, divided by `scale`."""
    b_enc, more = state.b_enc, {}
    if shape.architecture in ("standard", "jumprelu"):
        step = max(1, len(data) // config.sample)
        bar = _bar(state.hidden(data[::step] * scale), shape.l0)
        if shape.architecture == "standard":
            b_enc = b_enc - bar
        else:
            more["threshold"] = torch.full_like(b_enc, bar / scale)
    weights = {"W_enc": state.w_enc, "b_enc": b_enc / scale, "W_dec": state.w_dec, "b_dec": state.b_dec / scale} | more
    return {name: weight.detach().float().cpu().contiguous() for name, weight in weights.items()}


def _bar(hidden: Tensor, l0: float) -> float:
    """The value that `l0` entries a row exceed on the average; zero where no more than that are above zero."""
    size = min(round(l0 * len(hidden)), hidden.numel() - 1)
    return max(0.0, float(torch.topk(hidden.flatten(), size + 1).values[-1]))
