"""Random directions in the shape of a dictionary: the control that has learned nothing.

Each feature gets one direction, drawn from a Gaussian and so uniform on the sphere. Its encoder row and its decoder row lie
along it (those of trained dictionaries are near each other too, and the nearest decoder direction must mean something for
the comparison with neighbours), each with the length that the dictionary's own has. A transcoder reads and writes two
spaces: there the decoder has directions of its own. The decoder's bias and the normalisation stay the dictionary's.

The encoder's biases are set on a sample of activations, so that feature i is active on as many of its tokens as feature i
of the dictionary, as far as the kind allows:

- ReLU and JumpReLU: exactly, each by itself (up to ties); a threshold stays the dictionary's.
- `topk`: features compete for k places, so the biases are brought there in rounds, and the densities are met about; a
  common shift, which decides nothing between features, then keeps all k of a token above zero. L0 is k.
- `abstopk`: the sign of what comes in decides the pole, so biases stay zero: L0 is k, densities are what they are.

It trains nothing. Activations of random directions follow the large directions of the data, as they do in the literature.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glossator.config import ControlConfig
from glossator.harness.control_training import seeded
from glossator.harness.dictionary import SaeDictionary

MATCHED = (
    "topk", "abstopk", "standard", "jumprelu", "transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"
)  # fmt: skip
_ROUNDS = 12
_STEP = 0.7  # of the way to the bias that would be right if the others stood still
_ELEMENTS = 1 << 25  # of a matrix of tokens and features
_LOW = 0.001  # share of tokens that may fall short of k


@torch.inference_mode()
def random_weights(like: SaeDictionary, activations: Tensor, config: ControlConfig) -> dict[str, Tensor]:
    """Weights by SAELens's names, float32 on the CPU, for a dictionary of the kind of `like`; activations [n, d_in]."""
    generator = seeded("random", config.seed)
    state = {name: weight.detach().float().cpu().clone() for name, weight in like.sae.state_dict().items()}
    n, d_out = state["W_dec"].shape
    rows = _directions(n, like.d_in, generator)
    wide = rows if "transcoder" not in like.architecture else _directions(n, d_out, generator)
    state["W_enc"] = (rows * state["W_enc"].norm(dim=0)[:, None]).T.contiguous()
    state["W_dec"] = wide * state["W_dec"].norm(dim=-1)[:, None]
    sample = activations[: max(256, _ELEMENTS // like.n_features)]
    state["b_enc"] = _biases(like, state, sample)
    return state


def _directions(n: int, d: int, generator: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=-1)


def _biases(like: SaeDictionary, state: dict[str, Tensor], sample: Tensor) -> Tensor:
    if like.architecture == "abstopk":
        return torch.zeros_like(state["b_enc"])
    entering: Tensor = like.sae.process_sae_in(like.prepared(sample)).float()
    projected = entering @ state["W_enc"].to(entering.device)  # [n, f], without biases
    places = torch.bincount(like.active(sample)[1], minlength=like.n_features)  # tokens of the sample it is active on
    if like.architecture != "topk":
        bias = -_between(projected, places).cpu()
        if "threshold" in state:
            bias += state["threshold"]
        return bias
    norms = like.sae.W_dec.norm(dim=-1).float() if like.sae.cfg.rescale_acts_by_decoder_norm else torch.ones(1)
    norms = norms.to(entering.device)
    return torch.div(_competing(projected * norms, places, int(like.sae.cfg.k)), norms).cpu()


def _competing(projected: Tensor, places: Tensor, k: int) -> Tensor:
    """Biases with which feature i is about `places[i]` times among the k largest of a token, all of them above zero."""
    bias = -_between(projected, places)
    for _ in range(_ROUNDS):
        bar = _kth(projected + bias, k)
        bias += _STEP * (-_between(projected - bar[:, None], places) - bias)
        bias -= bias.mean()
    bar = _kth(projected + bias, k)
    return bias - torch.quantile(bar, _LOW) + 1e-3 * projected.std()


def _kth(hidden: Tensor, k: int) -> Tensor:
    return torch.topk(hidden, k, dim=-1, sorted=False).values.amin(-1)


def _between(values: Tensor, places: Tensor) -> Tensor:
    """[f]: what `places[i]` of the column i exceed, halfway to the next one below; above all of them for no place."""
    rising = values.T.contiguous().sort(dim=1).values  # along rows it is three times faster
    n, each = len(values), torch.arange(values.shape[1], device=values.device)
    last, following = (n - places).clamp(0, n - 1), (n - 1 - places).clamp(0, n - 1)
    halfway = (rising[each, last] + rising[each, following]) / 2
    beyond = rising[:, -1] + 0.1 * values.std(dim=0)
    return torch.where(places > 0, halfway, beyond)
