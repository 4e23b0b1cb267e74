"""A model's own neurons as a dictionary: each coordinate of a hook point has two features, above zero and below it.

The baseline that a learned dictionary must beat. It has no weights and reconstructs exactly.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from glossator.harness.dictionary import nonzero, poles, unpoles


class NeuronDictionary:
    """A `Dictionary`: feature i is max(x_i, 0), feature d_in + i is max(-x_i, 0).

    `directions`, [d_in, d_out], says what a unit of each coordinate writes where that is known, such as the rows of the
    linear map after a hidden layer; otherwise a coordinate's direction is the coordinate itself.
    """

    hook_out: str | None = None
    signed = True
    architecture = "neurons"

    def __init__(self, hook: str, d_in: int, directions: Tensor | None = None) -> None:
        self.name, self.hook = f"neurons@{hook}", hook
        self.d_in, self.n_features = d_in, 2 * d_in
        self.expected_l0: float | None = float(d_in)
        self._directions = directions
        self.stated: dict[str, Any] = {}

    @torch.inference_mode()
    def encode(self, activations: Tensor) -> Tensor:
        """[tokens, d_in] of any dtype -> [tokens, 2 d_in] float32, on the device of the activations."""
        return poles(activations.float())

    @torch.inference_mode()
    def active(self, activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The non-zero coordinates, by token."""
        token, coordinate, value = nonzero(activations)
        return token, coordinate + (value < 0) * self.d_in, value.abs()

    @torch.inference_mode()
    def decode(self, features: Tensor, activations: Tensor) -> Tensor:
        """Exactly what was encoded, in float32."""
        return unpoles(features)

    def directions(self) -> Tensor:
        """[2 d_in, d_out] float32 on the CPU."""
        rows = torch.eye(self.d_in) if self._directions is None else self._directions.detach().float().cpu()
        return torch.cat([rows, -rows])

    def identity(self) -> dict[str, Any]:
        digest = hashlib.blake2b(digest_size=8)
        if self._directions is not None:
            digest.update(self._directions.detach().float().cpu().contiguous().numpy().tobytes())
        return {
            "dictionary": self.name,
            "source": "neurons",
            "architecture": self.architecture,
            "n_features": self.n_features,
            "signed": self.signed,
            "d_in": self.d_in,
            "hook": self.hook,
            "hook_out": self.hook_out,
            "weights": digest.hexdigest(),
            "stated": self.stated,
        }
