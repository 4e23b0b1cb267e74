"""The features of one hook point: encode(activations [tokens, d_in]) -> [tokens, n_features], never negative.

SAELens folders (`cfg.json`, `sae_weights.safetensors`) and names (`RELEASE:SAE_ID` of its registry, `REPOSITORY:FOLDER` of the
hub) load through SAELens itself, gradients off. Signed features become two poles, stateful normalisation is derived
from the input again, mean-centred inputs are centred. What would be silently wrong is refused. It trains nothing.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from glossator.errors import DictionaryError

MAX_DENSE = 1 << 26  # elements of a dense buffer of the encoder: 256 MB of float32
_NARROW = 8192  # columns up to which a block is every so-many-th column, and all are compared with the bound
_STRIDED = 16
_PART = 1 << 20  # elements that are searched at once on a CPU: they stay in its cache
_LEAST = float(np.nextafter(np.float32(0), np.float32(1)))  # the smallest positive number
_TOP_K = ("topk", "abstopk")
_CENTRED = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "hook_embed", "hook_pos_embed")  # fmt: skip
_UNFOLDED = {
    "expected_average_only_in": "fold_activation_norm_scaling_factor(factor)",
    "covariance_whitening": "fold_activation_whitening(mean, matrix, inverse)",
}


class Dictionary(Protocol):
    """What the harvest and the measurer need of a dictionary. Poles count as features."""

    name: str
    n_features: int
    d_in: int
    hook: str  # what it reads: as its config says, then the subject's own path; "" where the config does not say
    hook_out: str | None  # where a transcoder writes, "" if it does not say; None: it reconstructs what it reads
    signed: bool  # features n/2 .. n-1 are the negative poles of 0 .. n/2-1
    expected_l0: float | None  # active features a token, where that is known beforehand

    def encode(self, activations: Tensor) -> Tensor:
        """[tokens, d_in] -> [tokens, n_features], >= 0, dense: for single texts."""
        ...

    def active(self, activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """token, feature (int64) and value (float32) of everything in `encode` that is not zero; NaN is not zero."""
        ...

    def decode(self, features: Tensor, activations: Tensor) -> Tensor:
        """[tokens, n_features] -> [tokens, d_out], where `activations` is what was encoded."""
        ...

    def directions(self) -> Tensor:
        """[n_features, d_out] float32 on the CPU: what one unit of each feature adds to the reconstruction."""
        ...

    def identity(self) -> dict[str, Any]: ...


class SaeDictionary:
    """An SAE or transcoder loaded by SAELens.

    On a CPU float16 weights are computed in float32 (the same numbers, 45 times faster). Activations of any dtype and
    device are brought to the dictionary's own; results lie on its device. With exact ties at the k-th place which of the
    tied features of a top-k dictionary is active is not defined, neither here nor in SAELens.
    """

    def __init__(self, source: str, *, device: str = "cpu") -> None:
        self.name = _name(source)
        self.source = source
        self._sae: Any = _load(source, device)
        self._sae.eval().requires_grad_(False)
        config = self._sae.cfg
        self.architecture: str = config.architecture()
        _refuse(source, config)
        self._sae.turn_off_forward_pass_hook_z_reshaping()  # our hooks give the heads side by side already
        self.stated = _stated(source, config)
        self.signed = self.architecture == "abstopk"
        self.n_features, self.d_in = int(config.d_sae) * (2 if self.signed else 1), int(config.d_in)
        self.d_out = int(self._sae.W_dec.shape[1])
        metadata = config.metadata  # missing attributes are None
        self.hook: str = metadata.hf_hook_name or metadata.hook_name or ""
        self._transcodes = "transcoder" in self.architecture
        self.hook_out: str | None = None
        if self._transcodes:
            self.hook_out = metadata.hf_hook_name_out or metadata.hook_name_out or ""
        self.expected_l0: float | None = self.stated.get("k") or self.stated.get("l0")
        self.centred = _centred(source, metadata)
        rescaled = self.architecture in _TOP_K and config.rescale_acts_by_decoder_norm
        self._norms: Tensor | None = self._sae.W_dec.norm(dim=-1) if rescaled else None

    @property
    def sae(self) -> Any:
        """SAELens's own object, after whose likeness controls are made."""
        return self._sae

    @torch.inference_mode()
    def encode(self, activations: Tensor) -> Tensor:
        """[tokens, d_in] -> [tokens, n_features], >= 0. Dense: `active` needs less memory and time."""
        encoded: Tensor = self._sae.encode(self.prepared(activations))
        return poles(encoded) if self.signed else encoded

    @torch.inference_mode()
    def active(self, activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The non-zero entries of `encode`, by token; in parts whose dense pre-activations stay below MAX_DENSE."""
        rows = max(1, MAX_DENSE // int(self._sae.cfg.d_sae))
        found = []
        for begin in range(0, max(len(activations), 1), rows):
            part = activations[begin : begin + rows]
            token, feature, value = self._top(part) if self.architecture in _TOP_K else nonzero(self.encode(part))
            found.append((token + begin, feature, value))
        token, feature, value = (torch.cat(column) for column in zip(*found, strict=True))
        return token, feature, value

    def _top(self, activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Top-k without a scatter into a dense buffer and without a search for what is not zero in it."""
        sae = self._sae
        hidden = torch.addmm(sae.b_enc, sae.process_sae_in(self.prepared(activations)), sae.W_enc)  # one pass, not two
        if self._norms is not None:
            hidden = hidden * self._norms
        if not self.signed:
            return top_k(hidden, sae.cfg.k)
        token, feature, value = top_k(hidden.abs(), sae.cfg.k)
        return token, feature + (hidden[token, feature] < 0) * (self.n_features // 2), value

    @torch.inference_mode()
    def decode(self, features: Tensor, activations: Tensor) -> Tensor:
        """The reconstruction of `activations`; a transcoder's of what its output hook gives.

        What was taken from the input (its norm, its mean) is put back, as SAELens does right after `encode`. The
        mean of centred inputs is put back too, except by a transcoder, which writes elsewhere.
        """
        sae = self._sae
        given = self.prepared(activations)
        if not self._transcodes:
            sae.process_sae_in(
                given
            )  # keeps the norms that decode divides by: another chunk may have been encoded since
        coded = unpoles(features) if self.signed else features
        decoded: Tensor = sae.decode(coded.to(sae.device, sae.dtype))
        if "skip" in self.architecture:
            decoded = decoded + given.to(sae.dtype) @ sae.W_skip.T
        if self.centred and not self._transcodes:
            decoded = decoded + activations.to(sae.device).float().mean(-1, keepdim=True)
        return decoded

    def prepared(self, activations: Tensor) -> Tensor:
        """On the dictionary's device, centred if it was trained on a model whose writing weights were centred."""
        given = activations.to(self._sae.device)
        if self.centred:
            given = given.float()  # a mean in bfloat16 would be off by more than the features
            given = given - given.mean(-1, keepdim=True)
        return given

    @torch.inference_mode()
    def directions(self) -> Tensor:
        """[n_features, d_out] decoder directions, rescaled as `decode` rescales them."""
        weights: Tensor = self._sae.W_dec.detach().float().cpu()
        if self._norms is not None:
            weights = weights / self._norms.float().cpu()[:, None]
        return torch.cat([weights, -weights]) if self.signed else weights

    @cached_property
    def _weights(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for name, tensor in sorted(self._sae.state_dict().items()):
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        return {
            "dictionary": self.name,
            "source": self.source,
            "architecture": self.architecture,
            "n_features": self.n_features,
            "signed": self.signed,
            "d_in": self.d_in,
            "hook": self.hook,
            "hook_out": self.hook_out,
            "dtype": str(self._sae.dtype).removeprefix("torch."),
            "normalised": self._sae.cfg.normalize_activations,
            "centred": self.centred,
            "weights": self._weights,
            "stated": self.stated,
        }


def check_width(dictionary: Dictionary, d_hook: int, hook: str) -> None:
    """Raise DictionaryError where the dictionary was made for another width than the hook gives."""
    if dictionary.d_in != d_hook:
        raise DictionaryError(
            f"{dictionary.name}: the dictionary reads {dictionary.d_in} dimensions, the hook {hook!r} gives {d_hook}; name another hook"
        )


def poles(signed: Tensor) -> Tensor:
    """[tokens, n] of either sign -> [tokens, 2 n]: what is above zero, then what is below it, turned round. NaN stays above."""
    below = signed < 0
    return torch.cat([signed.masked_fill(below, 0), (-signed).masked_fill(~below, 0)], -1)


def unpoles(features: Tensor) -> Tensor:
    """The inverse of `poles`."""
    above, below = features.chunk(2, -1)
    return above - below


def nonzero(dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """row, column (int64) and value (float32) of what is not zero, row by row. numpy finds it faster on a CPU."""
    if dense.device.type != "cpu":
        row, column = dense.nonzero(as_tuple=True)
        return row, column, dense[row, column].float()
    width = dense.shape[1]
    rows = max(1, _PART // width)
    parts = [np.flatnonzero((part != 0).numpy()) + i * rows * width for i, part in enumerate(torch.split(dense, rows))]
    flat = torch.from_numpy(np.concatenate(parts))
    return torch.div(flat, width, rounding_mode="floor"), flat % width, dense.reshape(-1)[flat].float()


def top_k(hidden: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """row, column and value of the k largest of each row that are above zero; NaN counts as the largest, as in torch.topk.

    On a CPU torch.topk is slow on wide rows. The k-th largest maximum of a row's blocks is a lower bound of its k-th
    value, and few blocks reach it: only their columns are compared (2.1 to 3.2 times faster on 4,096 to 32,768 columns).
    Widths that no size of block divides, other dtypes and devices take torch.topk. Of exact ties the first columns
    win here; which ones win in torch.topk is not defined.
    """
    width = hidden.shape[1]
    sizes = (_STRIDED,) if width <= _NARROW else (128, 64, 32)
    block = next((b for b in sizes if width % b == 0 and width // b >= 2 * k), 0)
    if hidden.device.type != "cpu" or hidden.dtype != torch.float32 or not block:
        return _torch_top_k(hidden, k)
    rows = max(1, _PART // width)
    found = []
    for i, part in enumerate(torch.split(hidden, rows)):
        row, column, value = _block_top_k(part, k, block)
        found.append((row + i * rows, column, value))
    row, column, value = (torch.cat(each) for each in zip(*found, strict=True))
    return row, column, value


def _torch_top_k(hidden: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    value, column = torch.topk(hidden, k, sorted=False)
    row, at = torch.nonzero(~(value <= 0), as_tuple=True)
    return row, column[row, at], value[row, at].float()


def _block_top_k(hidden: Tensor, k: int, block: int) -> tuple[Tensor, Tensor, Tensor]:
    rows, width = hidden.shape
    blocks = hidden.reshape(rows, *((block, width // block) if block == _STRIDED else (width // block, block)))
    maxima = blocks.amax(1 if block == _STRIDED else 2)  # NaN where the block has one
    lost = maxima.isnan().any(1)
    if lost.any():  # a comparison would lose the NaN
        whole = _torch_top_k(hidden[lost], k)
        rest = _block_top_k(hidden[~lost], k, block)
        at = [torch.nonzero(mask).flatten()[part[0]] for mask, part in ((lost, whole), (~lost, rest))]
        return torch.cat(at), torch.cat([whole[1], rest[1]]), torch.cat([whole[2], rest[2]])
    bound = torch.topk(maxima, k, sorted=False).values.amin(1).clamp(min=_LEAST)
    row, column, value = _reaching(hidden, maxima, bound, block)
    count = np.bincount(row, minlength=rows)
    place = np.arange(len(row)) - (np.cumsum(count) - count)[row]
    most = max(int(count.max(initial=0)), k)
    wide = np.full((rows, most), -np.inf, np.float32)
    wide[row, place] = value
    least = np.partition(wide, most - k, axis=1)[:, most - k] if rows else np.zeros(0, np.float32)
    keep = value >= least[row]
    if np.count_nonzero(keep) > np.minimum(count, k).sum():  # exact ties at the k-th place
        tied = value == least[row]
        room = k - np.bincount(row[keep & ~tied], minlength=rows)
        ties = np.concatenate([[0], np.cumsum(tied)])
        begin = np.searchsorted(row, np.arange(rows))  # candidates are in order of rows
        keep &= ~tied | (ties[1:] - ties[begin][row] <= room[row])
    return torch.from_numpy(row[keep]), torch.from_numpy(column[keep]), torch.from_numpy(value[keep])


def _reaching(hidden: Tensor, maxima: Tensor, bound: Tensor, block: int) -> tuple[Any, Any, Any]:
    """Row, column and value of what is at or above its row's bound, row by row: in narrow rows all are compared."""
    width = hidden.shape[1]
    if block == _STRIDED:
        flat = np.flatnonzero((hidden >= bound[:, None]).numpy())
        return *np.divmod(flat, width), hidden.reshape(-1).numpy()[flat]
    reached = np.flatnonzero((maxima >= bound[:, None]).numpy())
    among = hidden.reshape(-1, block).numpy()[reached]
    row_of, block_of = np.divmod(reached, width // block)
    flat = np.flatnonzero(among >= bound.numpy()[row_of][:, None])
    which, inside = np.divmod(flat, block)
    return row_of[which], block_of[which] * block + inside, among.reshape(-1)[flat]


def _name(source: str) -> str:
    path = Path(source)
    return (path.name or path.resolve().name) if path.exists() else source


def _refuse(source: str, config: Any) -> None:
    """Raise DictionaryError for what loads but would be encoded wrongly."""
    _refuse_temporal(source, config.architecture())
    if config.normalize_activations in _UNFOLDED:
        raise DictionaryError(
            f"{source}: expects activations normalised by {config.normalize_activations!r}, which SAELens does not apply on loading; "
            f"fold it into the weights first with its {_UNFOLDED[config.normalize_activations]} and save again"
        )
    if config.metadata.hook_head_index is not None:
        raise DictionaryError(
            f"{source}: reads attention head {config.metadata.hook_head_index} alone; name a dictionary of the whole layer"
        )
    if config.architecture() in _TOP_K and not 0 < config.k <= config.d_sae:
        raise DictionaryError(f"{source}: its cfg.json keeps k = {config.k} of {config.d_sae} features; correct k")


def _refuse_temporal(source: str, architecture: str | None) -> None:
    if architecture == "temporal":
        raise DictionaryError(
            f"{source}: a temporal SAE needs whole sequences, not single tokens; name another dictionary"
        )


def _stated(source: str, config: Any) -> dict[str, Any]:
    """What the dictionary's config and SAELens's registry say of it: plain values only."""
    metadata = config.metadata
    stated = metadata.to_dict() if hasattr(metadata, "to_dict") else {}
    listed = _listed(source)
    if listed is not None:
        sae_id = source.partition(":")[2]
        # the registry says 1 and 0 for what it does not know
        if (explained := listed.expected_var_explained.get(sae_id, 1.0)) not in (None, 1.0):
            stated.setdefault("variance_explained", float(explained))
        if l0 := listed.expected_l0.get(sae_id):
            stated.setdefault("l0", float(l0))
    if config.architecture() in _TOP_K:
        stated["k"] = int(config.k)
    return {k: v for k, v in stated.items() if isinstance(v, int | float | str | bool)}


def _centred(source: str, metadata: Any) -> bool:
    """Whether it was made with TransformerLens's `center_writing_weights`: then what layers write has mean zero.

    For a model with LayerNorm, taking the mean of the activations away is exactly that. Models with RMSNorm are never
    centred. Other hooks (inside attention, inside the MLP) stay the same.
    """
    given = dict(metadata.model_from_pretrained_kwargs or {})
    listed = _listed(source)
    if listed is not None:  # SAELens drops the registry's word where the folder's config is of its newest format
        given = (listed.config_overrides or {}).get("model_from_pretrained_kwargs", {}) | given
    hook = metadata.hook_name or ""
    return bool(given.get("center_writing_weights")) and hook.rpartition(".")[2] in _CENTRED


def _listed(source: str) -> Any:
    """The registry's entry for a release; None for a folder, a repository or an unknown name."""
    if Path(source).is_dir():
        return None
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return get_pretrained_saes_directory().get(source.partition(":")[0])


def _load(source: str, device: str) -> Any:
    from sae_lens import SAE  # takes seconds to import

    path = Path(source)
    release, colon, sae_id = source.partition(":")
    if path.is_dir() and not (path / "cfg.json").exists():
        raise DictionaryError(f"{source}: no cfg.json in this folder; name a folder that SAELens saved")
    if not path.is_dir() and not colon:
        raise DictionaryError(f"{source}: no such folder; for a dictionary of SAELens's registry write RELEASE:SAE_ID")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what it warns of is honoured or refused here
            if not path.is_dir():
                return SAE.from_pretrained(release, sae_id, device=device)
            stored = json.loads((path / "cfg.json").read_text("utf-8"))
            _refuse_temporal(source, stored.get("architecture"))
            return SAE.load_from_disk(path, device=device, dtype="float32" if device == "cpu" else stored.get("dtype"))
    except DictionaryError:
        raise
    except Exception as error:
        what = "this folder" if path.is_dir() else "it"
        cause = " ".join(str(error).split())[:200]
        raise DictionaryError(
            f"{source}: SAELens cannot load {what} ({type(error).__name__}: {cause}){_way_out(error)}"
        ) from error


def _way_out(error: Exception) -> str:
    """What to do where it was the hub that failed, by the names of its client's errors."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if "RepositoryNotFoundError" in names:
        return "; check the name, or set HF_TOKEN if the repository is private"
    if names & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "TransportError", "ConnectionError"}:
        return "; the hub did not answer: run again, or name a folder on this machine"
    if "EntryNotFoundError" in names:
        return "; the repository has no such folder: check what follows the colon"
    return ""
