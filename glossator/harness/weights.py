"""A model's weights as one short text, so that another model of the same name is noticed.

All of them are hashed, tensor by tensor in several threads. Before, only the first 64 numbers of each parameter were: run
files of then still hold such a text, and `fits` compares by the kind that it is given.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import torch

_ALL = "all:"  # what stands before a hash of all weights; nothing stands before one of the first numbers


def digest_of(model: torch.nn.Module, without: Collection[str] = ()) -> str:
    """Of every parameter and every buffer that is stored with the model, by name, type, shape and bytes.

    `without`: those that the checkpoint lacks, which are made up anew each time.
    """
    tensors = sorted((name, tensor) for name, tensor in model.state_dict().items() if name not in without)
    whole = hashlib.blake2b(digest_size=8)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing lets other threads run
        for (name, tensor), each in zip(tensors, pool.map(lambda pair: _hashed(pair[1]), tensors), strict=True):
            whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + each)
    return _ALL + whole.hexdigest()


def _hashed(tensor: torch.Tensor) -> bytes:
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.blake2b(raw.data, digest_size=16).digest()


def fits(model: torch.nn.Module, stored: str, current: str) -> bool:
    """Whether these are the weights of a stored text, of either kind; `current` is the model's `digest_of`."""
    return stored == (current if stored.startswith(_ALL) else _first_numbers(model))


def _first_numbers(model: torch.nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        digest.update(name.encode() + parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()
