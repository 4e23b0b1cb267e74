"""The features of one hook point: encode(activations [tokens, d_in]) -> [tokens, n_features], never negative.

SAELens folders (`cfg.json`, `sae_weights.safetensors`) and registry names (`RELEASE:SAE_ID`) load through SAELens itself,
gradients off. What SAELens would get silently wrong is refused: signed activations, statefully normalised inputs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from glossator.errors import DictionaryError


class Dictionary(Protocol):
    name: str
    n_features: int
    d_in: int

    def encode(self, activations: Tensor) -> Tensor: ...

    def decode(self, features: Tensor) -> Tensor: ...

    def directions(self) -> Tensor: ...

    def identity(self) -> dict[str, Any]: ...


class SaeDictionary:
    """An SAE loaded by SAELens. float16 weights are computed in float32 (the same numbers, 45 times faster on a CPU)."""

    def __init__(self, source: str, *, device: str = "cpu") -> None:
        self.name = _name(source)
        self.source = source
        self._sae: Any = _load(source, device)
        self._sae.eval().requires_grad_(False)
        config = self._sae.cfg
        if config.architecture() == "abstopk":
            raise DictionaryError(f"{source}: abstopk gives signed activations; signed features are not supported yet")
        if "transcoder" in config.architecture():
            raise DictionaryError(
                f"{source}: a transcoder reads and writes at two hooks; transcoders are not supported yet"
            )
        if config.normalize_activations not in ("none", None):
            raise DictionaryError(
                f"{source}: expects activations normalised by {config.normalize_activations!r}, which SAELens does not apply on loading; "
                "fold it into the weights first (fold_activation_norm_scaling_factor) and save again"
            )
        self.n_features, self.d_in = int(config.d_sae), int(config.d_in)

    @torch.inference_mode()
    def encode(self, activations: Tensor) -> Tensor:
        """[tokens, d_in] -> [tokens, n_features], >= 0."""
        encoded: Tensor = self._sae.encode(activations)
        return encoded

    @torch.inference_mode()
    def decode(self, features: Tensor) -> Tensor:
        decoded: Tensor = self._sae.decode(features)
        return decoded

    def directions(self) -> Tensor:
        """[n_features, d_out] decoder directions."""
        directions: Tensor = self._sae.W_dec.detach().float().cpu()
        return directions

    def identity(self) -> dict[str, Any]:
        digest = hashlib.blake2b(digest_size=8)
        for name, tensor in sorted(self._sae.state_dict().items()):
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        metadata = self._sae.cfg.metadata
        stated = metadata.to_dict() if hasattr(metadata, "to_dict") else {}
        return {
            "dictionary": self.name,
            "source": self.source,
            "architecture": self._sae.cfg.architecture(),
            "n_features": self.n_features,
            "d_in": self.d_in,
            "weights": digest.hexdigest(),
            "stated": {k: v for k, v in stated.items() if isinstance(v, int | float | str | bool)},
        }


def check_width(dictionary: Dictionary, d_hook: int, hook: str) -> None:
    """Raise DictionaryError where the dictionary was made for another width than the hook gives."""
    if dictionary.d_in != d_hook:
        raise DictionaryError(
            f"{dictionary.name}: the dictionary reads {dictionary.d_in} dimensions, the hook {hook!r} gives {d_hook}; name another hook"
        )


def _name(source: str) -> str:
    path = Path(source)
    return path.name if path.exists() else source


def _load(source: str, device: str) -> Any:
    from sae_lens import SAE  # takes seconds to import

    path = Path(source)
    if path.is_dir():
        if not (path / "cfg.json").exists():
            raise DictionaryError(f"{source}: no cfg.json in this folder; name a folder that SAELens saved")
        try:
            stored = json.loads((path / "cfg.json").read_text("utf-8"))
            dtype = "float32" if device == "cpu" else stored.get("dtype")
            return SAE.load_from_disk(path, device=device, dtype=dtype)
        except Exception as error:
            raise DictionaryError(
                f"{source}: SAELens cannot load this folder ({type(error).__name__}: {str(error)[:200]})"
            ) from error
    if ":" not in source:
        raise DictionaryError(f"{source}: no such folder; for a dictionary of SAELens's registry write RELEASE:SAE_ID")
    release, _, sae_id = source.partition(":")
    try:
        return SAE.from_pretrained(release, sae_id, device=device)
    except Exception as error:
        raise DictionaryError(
            f"{source}: SAELens cannot load it ({type(error).__name__}: {str(error)[:200]})"
        ) from error
