"""Models and dictionaries by name, through the real client of the hub, from a small hub on this machine.

The client reads HF_ENDPOINT when it is imported, so all of it happens in one process of its own, which writes what it
found as JSON. Nothing leaves the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.harness.small_models import small_gpt2
from tests.harness.test_kinds import made

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
JB = "jbloom/GPT2-Small-SAEs-Reformatted"  # where gpt2-small-res-jb lies
GEMMA = "google/gemma-scope-2b-pt-res"
GEMMA_SAE = "embedding/width_4k/average_l0_6"

CHILD = """
import json, sys, time, warnings
time.sleep = lambda seconds: None  # the client tries a failing server five times, up to 8 s apart
import torch
torch.set_num_threads(1)
from glossator.config import SubjectConfig
from glossator.errors import GlossatorError
from glossator.harness.dictionary import SaeDictionary
from glossator.harness.loading import load_model
from glossator.harness.subject import HFSubject

acts = torch.linspace(-2, 3, 48).reshape(3, 16) ** 2
def facts(dictionary, acts=acts):
    identity = dictionary.identity()
    stated = {k: identity["stated"].get(k) for k in ("l0", "variance_explained", "model_name", "k")}
    return {"name": dictionary.name, "hook": dictionary.hook, "centred": identity["centred"], "stated": stated,
            "architecture": identity["architecture"], "size": [dictionary.d_in, dictionary.n_features],
            "expected_l0": dictionary.expected_l0, "encoded": dictionary.encode(acts).tolist() if acts is not None else None}
def whole(model, *dictionaries):
    what = SubjectConfig(model=model, dictionaries=dictionaries, hooks=[None] * len(dictionaries), corpus=())
    subject, loaded = load_model(what, 32, "cpu")
    ids = subject.tokenize(["the cat sat on the mat"])
    return {"name": subject.name, "hooks": subject.hooks, "tokens": len(ids[0]), "loaded": [d.hook for d in loaded]}
cases = {
    "folder": lambda: facts(SaeDictionary("someone/tiny-saes:layer_1")),
    "release": lambda: facts(SaeDictionary("gpt2-small-res-jb:blocks.1.hook_resid_pre")),
    "npz": lambda: facts(SaeDictionary("gemma-scope-2b-pt-res:embedding/width_4k/average_l0_6"), None),
    "model": lambda: whole("someone/tiny-gpt2", "someone/tiny-saes:layer_1", "gpt2-small-res-jb:blocks.1.hook_resid_pre"),
    "no repository": lambda: SaeDictionary("someone/gone:layer_1"),
    "no folder": lambda: SaeDictionary("someone/tiny-saes:layer_9"),
    "no id": lambda: SaeDictionary("gpt2-small-res-jb:blocks.99.hook_resid_pre"),
    "500": lambda: SaeDictionary("broken/500:layer_1"),
    "drops": lambda: SaeDictionary("broken/drops:layer_1"),
    "half": lambda: SaeDictionary("broken/half:layer_1"),
    "no model": lambda: HFSubject("someone/gone", "h.1"),
    "model 500": lambda: HFSubject("broken/500", "h.1"),
    "model drops": lambda: HFSubject("broken/drops", "h.1"),
    "model half": lambda: HFSubject("broken/half", "h.1"),
}
found = {}
for name, case in cases.items():
    try:
        found[name] = case()
        if not isinstance(found[name], dict):
            found[name] = {"error": "none"}
    except GlossatorError as error:
        found[name] = {"error": type(error).__name__, "message": str(error)}
    except BaseException as error:
        found[name] = {"error": type(error).__name__, "message": repr(error)}
json.dump(found, open(sys.argv[1], "w"))
"""


class _Hub(BaseHTTPRequestHandler):
    """What the client asks of a hub: the head and the body of a file, the facts of a repository, its tree."""

    root: Path
    asked: list[str]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        self.asked.append(format % args)

    def _answer(self, *, body: bool) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            return self._facts("/".join(parts[2:4]), parts[4:])
        repository, rest = "/".join(parts[:2]), parts[2:]
        if repository == "broken/drops":
            return self._drop()
        if repository == "broken/500":
            return self._send(500, b"", body=body)
        folder = self.root / repository
        if not folder.is_dir():
            return self._send(404, b"", body=body, **{"X-Error-Code": "RepoNotFound"})
        file = folder.joinpath(*rest[2:])
        if rest[:1] != ["resolve"] or not file.is_file():
            return self._send(404, b"", body=body, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = file.read_bytes()
        tag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self._send(200, content, body=body, half=repository == "broken/half", **tag)

    def _facts(self, repository: str, rest: list[str]) -> None:
        folder = self.root / repository
        if repository == "broken/drops":
            return self._drop()
        if repository == "broken/500":
            return self._send(500, b"", body=True)
        if not folder.is_dir():
            return self._send(404, b"{}", body=True, **{"X-Error-Code": "RepoNotFound"})
        files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
        if rest[:1] == ["tree"]:
            under = "/".join(rest[2:])
            listed = [
                {"type": "file", "path": f, "size": (folder / f).stat().st_size, "oid": COMMIT}
                for f in files
                if f.startswith(under)
            ]
            if under and not listed:
                return self._send(404, b"{}", body=True, **{"X-Error-Code": "EntryNotFound"})
            return self._send(200, json.dumps(listed).encode(), body=True)
        facts = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
        return self._send(200, json.dumps(facts).encode(), body=True)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, status: int, content: bytes, *, body: bool, half: bool = False, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if half else content)
        if body and half:
            self.close_connection = True


@contextmanager
def hub(root: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Hub", (_Hub,), {"root": root, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def release_of_old(folder: Path) -> dict[str, torch.Tensor]:
    """What gpt2-small-res-jb is: a config from before version 6, weights, no word of centring (the registry has it)."""
    torch.manual_seed(3)
    weights = {
        "W_enc": torch.randn(16, 24),
        "W_dec": torch.randn(24, 16),
        "b_enc": torch.randn(24),
        "b_dec": torch.randn(16),
    }
    folder.mkdir(parents=True)
    save_file(weights, folder / "sae_weights.safetensors")
    config = {
        "model_name": "gpt2-small",
        "hook_point": "blocks.1.hook_resid_pre",
        "hook_point_layer": 1,
        "hook_point_head_index": None,
        "dataset_path": "Skylion007/openwebtext",
        "context_size": 128,
        "d_in": 16,
        "d_sae": 24,
        "dtype": "torch.float32",
        "device": "cpu",
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    return weights


def gemma_scope(folder: Path) -> None:
    """The real size, since the loader goes by the names of folders; zeros, so that the file is small."""
    folder.mkdir(parents=True)
    d_in, width = 2304, 4096
    names = {"w_enc": (d_in, width), "w_dec": (width, d_in), "b_enc": (width,), "b_dec": (d_in,), "threshold": (width,)}
    np.savez_compressed(folder / "params.npz", **{name: np.zeros(shape, np.float32) for name, shape in names.items()})


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process found that loaded everything by name; beside it the weights, and what the hub was asked."""
    root, home = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("home")
    mine = {"hook_name": "blocks.2.hook_mlp_out", "model_name": "tiny-gpt2"}
    made(root / "someone" / "tiny-saes" / "layer_1", "topk", d_in=16, d_sae=64, metadata=mine)
    made(root / "broken" / "half" / "layer_1", "topk", d_in=16, d_sae=64)
    weights = release_of_old(root / JB / "blocks.1.hook_resid_pre")
    gemma_scope(root / GEMMA / GEMMA_SAE)
    small_gpt2(root / "someone" / "tiny-gpt2")
    small_gpt2(root / "broken" / "half")
    with hub(root) as (endpoint, asked):
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(home / "found.json")],
            env=kept | settings,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    cases: dict[str, Any] = json.loads((home / "found.json").read_text())
    return cases | {"weights": weights, "asked": asked}


def test_a_folder_of_a_repository_loads_by_name(found: dict[str, Any]) -> None:
    facts = found["folder"]
    assert facts.get("error") is None, facts
    assert (facts["name"], facts["hook"]) == ("someone/tiny-saes:layer_1", "blocks.2.hook_mlp_out")
    assert (facts["architecture"], facts["size"], facts["expected_l0"]) == ("topk", [16, 64], 4)
    assert facts["centred"] is False
    assert any("/someone/tiny-saes/resolve/main/layer_1/sae_weights.safetensors" in line for line in found["asked"])


def test_a_release_of_the_registry_loads_with_its_card_and_centred(found: dict[str, Any]) -> None:
    facts, weights = found["release"], found["weights"]
    assert facts.get("error") is None, facts
    assert (facts["hook"], facts["centred"], facts["size"]) == ("blocks.1.hook_resid_pre", True, [16, 24])
    assert facts["stated"] == {"l0": 10.0, "variance_explained": 0.999, "model_name": "gpt2-small", "k": None}
    assert facts["expected_l0"] == 10.0
    acts = torch.linspace(-2, 3, 48).reshape(3, 16) ** 2
    centred = acts - acts.mean(-1, keepdim=True)
    expected = ((centred - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
    assert torch.allclose(torch.tensor(facts["encoded"]), expected, atol=1e-4)
    raw = ((acts - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
    assert not torch.allclose(raw, expected, atol=1e-1)


def test_weights_in_another_format_load_through_the_loader_of_their_release(found: dict[str, Any]) -> None:
    facts = found["npz"]
    assert facts.get("error") is None, facts
    assert (facts["architecture"], facts["hook"], facts["size"]) == ("jumprelu", "hook_embed", [2304, 4096])


def test_a_model_loads_by_name_with_dictionaries_by_name(found: dict[str, Any]) -> None:
    facts = found["model"]
    assert facts.get("error") is None, facts
    assert facts["name"] == "someone/tiny-gpt2"
    assert facts["loaded"] == ["h.2.mlp", "h.1:in"]
    assert facts["tokens"] > 3


@pytest.mark.parametrize(
    ("case", "error", "way_out", "names"),
    [
        ("no repository", "DictionaryError", "check the name", "someone/gone:layer_1"),
        ("no folder", "DictionaryError", "check what follows the colon", "someone/tiny-saes:layer_9"),
        ("no id", "DictionaryError", "Valid IDs", "blocks.99.hook_resid_pre"),
        ("500", "DictionaryError", "run again", "broken/500:layer_1"),
        ("drops", "DictionaryError", "run again", "broken/drops:layer_1"),
        ("half", "DictionaryError", "run again", "broken/half:layer_1"),
        ("no model", "SubjectError", "cannot be loaded", "someone/gone"),
        ("model 500", "SubjectError", "cannot be loaded", "broken/500"),
        ("model drops", "SubjectError", "cannot be loaded", "broken/drops"),
        ("model half", "SubjectError", "cannot be loaded", "broken/half"),
    ],
)
def test_what_cannot_be_had_is_one_clear_line(
    found: dict[str, Any], case: str, error: str, way_out: str, names: str
) -> None:
    got = found[case]
    assert got["error"] == error, got
    assert names in got["message"]
    assert way_out in got["message"]
    assert "\n" not in got["message"]
    assert len(got["message"]) < 400
