"""Controls: dictionaries that should not be interpretable, harvested beside the real one in the same pass and run file.

What a pipeline says of them is what it says of nothing. `NAME~random-dictionary` has random directions (control_random.py).
`NAME~frozen-decoder` has a decoder that stays as it was drawn; encoder and biases are trained to reconstruct through it
(Korznikov et al. 2026, arXiv 2602.14111, where it scores 0.87 beside a trained dictionary's 0.90). `NAME~reinitialised-subject`
is a dictionary of the same kind, size and L0, trained for the subject with its weights drawn anew (reinitialised.py; Heap et
al. 2025, arXiv 2501.17727); the neurons of that subject for neurons. Both trainings are short (control_training.py): a control
is no better than it was made, so steps and variance explained are told, and kept with it.

Each is saved as a SAELens folder beside the run file, RUN.duckdb.controls/NAME~CONTROL, before the pass, and from then on is a
dictionary like others: workers, merging and probing load that folder. It is written under a temporary name and renamed, and
says what it was made of, so a harvest that was killed finds it again, and one that is made of something else refuses it.
Training repeats to the bit on one machine with one number of threads; shards that run on several must see one folder, or merge
refuses their parts. A control has no controls of its own.
"""

from __future__ import annotations

import copy
import json
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glossator.config import CONTROLS, Recipe
from glossator.errors import UsageError
from glossator.harness.contexts import Corpus
from glossator.harness.control_random import MATCHED, random_weights
from glossator.harness.control_training import TRAINABLE, Shape, train
from glossator.harness.dictionary import Dictionary, SaeDictionary
from glossator.harness.harvest import Work
from glossator.harness.loading import NEURONS, control_name
from glossator.harness.neurons import NeuronDictionary
from glossator.harness.reinitialised import PREFIX, ReinitialisedSubject, Twins, is_reinitialised
from glossator.harness.subject import HFSubject, Subject, batches
from glossator.harness.workers import set_up
from glossator.types import Ints, content_id

FORMAT = 1  # of how controls are made: count it up when the same recipe would give another one
RANDOM, FROZEN, REINITIALISED = CONTROLS
_POOL = 1 << 27  # numbers that the activations to train on may be
_HELD = 10  # one context in so many is held out of training, to measure on
_STALE = 3600.0  # seconds after which a folder that was not finished is nobody's any more

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]


def folder_of(run_file: Path) -> Path:
    """Where the controls of a run file lie."""
    return run_file.with_suffix(run_file.suffix + ".controls")


def beside(run_file: str, source: str) -> str:
    """Where a control's folder is now: run files are moved, with what lies beside them; `source` is where it lay."""
    moved = folder_of(Path(run_file)) / Path(source).name
    return str(moved) if moved.is_dir() else source


def set_up_with_controls(
    recipe: Recipe, run_file: Path, workers: int, progress: Progress, say: Say
) -> tuple[Work, Recipe]:
    """`set_up`, after the recipe's controls were made or found; and the recipe in which they are dictionaries.

    Raises UsageError for a dictionary that cannot have a control.
    """
    work = set_up(recipe, workers=workers)
    if not recipe.controls:
        return work, recipe
    trained = work.subject.trained if isinstance(work.subject, Twins) else work.subject
    assert isinstance(trained, HFSubject)  # what load_model gives
    making = _Making(work, trained, recipe, folder_of(run_file), progress, say)
    asked = [(dictionary, control) for dictionary in work.dictionaries for control in recipe.controls]
    for dictionary, control in asked:
        _refuse(dictionary, control)
    made = [(making.source(dictionary, control), _hook(dictionary, control)) for dictionary, control in asked]
    what = recipe.subject
    what = what.model_copy(
        update={
            "dictionaries": (*what.dictionaries, *(source for source, _ in made)),
            "hooks": (*what.hooks, *(hook for _, hook in made)),
        }
    )
    whole = recipe.model_copy(update={"subject": what, "controls": ()})
    corpus = work.corpus
    del work, making  # two models of a size need not be in memory together
    return set_up(whole, corpus, workers), whole


def _hook(dictionary: Dictionary, control: str) -> str:
    return PREFIX + dictionary.hook if control == REINITIALISED else dictionary.hook


def _refuse(dictionary: Dictionary, control: str) -> None:
    if dictionary.identity()["stated"].get("control") or is_reinitialised(dictionary.hook):
        raise UsageError(f"--control {control}: {dictionary.name} is a control itself; name its dictionary alone")
    if isinstance(dictionary, NeuronDictionary):
        return  # what they cannot have was refused before anything was loaded
    architecture = dictionary.identity()["architecture"]
    known = MATCHED if control == RANDOM else TRAINABLE
    if architecture not in known:
        raise UsageError(
            f"--control {control}: {dictionary.name} is of the architecture {architecture}; this control is made for {', '.join(known)}"
        )


@dataclass(frozen=True)
class _Making:
    """What controls are made from, and where they go."""

    work: Work
    trained: HFSubject
    recipe: Recipe
    folder: Path
    progress: Progress
    say: Say

    def source(self, dictionary: Dictionary, control: str) -> str:
        """What to load: the folder of the control, which is made if it does not lie there yet."""
        if not isinstance(dictionary, SaeDictionary):
            return NEURONS
        name = control_name(dictionary.name, control)
        path = (self.folder / re.sub(r"[^\w.@~-]", "_", name)).resolve()
        facts = {"control": control, "control_of": dictionary.name, "made_of": self._made_of(dictionary, control)}
        if path.exists():
            self._check(path, facts["made_of"])
            self.say(f"control {name}: found in {path}")
            return str(path)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        started, passing = time.monotonic(), self.folder / f".making-{platform.node()}-{uuid.uuid4().hex}"
        try:
            told = self._make(dictionary, control, facts, passing)
            try:
                passing.rename(path)
            except OSError:  # another shard's process was faster
                self._check(path, facts["made_of"])
        finally:
            shutil.rmtree(passing, ignore_errors=True)
        self.say(f"control {name}: {told}; {time.monotonic() - started:.0f} s; kept in {path}")
        return str(path)

    def _made_of(self, dictionary: SaeDictionary, control: str) -> str:
        config = self.work.config
        like = {k: v for k, v in dictionary.identity().items() if k not in ("dictionary", "source")}
        weights = self.work.subject.identity()["weights"]
        shapes = (config.batch_tokens, self.work.subject.context_size, self.recipe.control.digest())
        return content_id("control", FORMAT, control, like, dictionary.hook, weights, self.work.corpus.digest, shapes)

    @staticmethod
    def _check(path: Path, made_of: str) -> None:
        """Raise UsageError for a folder that is no control, or one that was made from something else."""
        try:
            stored = json.loads((path / "cfg.json").read_text("utf-8"))["metadata"]["made_of"]
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{path}: is no control; delete it, or name another run file") from error
        if stored != made_of:
            raise UsageError(
                f"{path}: this control was made from another dictionary, subject, corpus or recipe; delete it if no run file needs it, or name another run file"
            )

    def _sweep(self) -> None:
        """Remove what killed processes left half made."""
        for path in self.folder.glob(".making-*"):
            if time.time() - path.stat().st_mtime > _STALE:
                shutil.rmtree(path, ignore_errors=True)

    def _make(self, dictionary: SaeDictionary, control: str, facts: dict[str, Any], path: Path) -> str:
        """Write a control to `path`; returns what is to be told of it."""
        config, subject, hook = self.recipe.control, self.work.subject, dictionary.hook
        if control == RANDOM:
            kept, _ = activations(subject, hook, self.work.corpus, config.sample, self.work.config.batch_tokens)
            _save(dictionary, random_weights(dictionary, kept, config), facts | {"seed": config.seed}, path)
            l0 = _measured(path, kept)["l0"]
            _amend(path, {"l0": l0})
            return f"random directions, L0 {l0:.1f}"
        if control == REINITIALISED:
            subject = ReinitialisedSubject(self.trained)
            subject.watch(hook)
        wanted = min(config.tokens, max(config.sample, _POOL // dictionary.d_in))
        data, held = activations(subject, hook, self.work.corpus, wanted, self.work.config.batch_tokens)
        shape = Shape(dictionary.architecture, dictionary.sae.cfg.d_sae, self._l0(dictionary), control == FROZEN)
        name = control_name(dictionary.name, control)
        weights = train(
            _centred(data, dictionary), shape, config, lambda done, total: self.progress(name, done, total)
        )  # fmt: skip
        trained = {"seed": config.seed, "steps": config.steps, "rows": config.rows, "tokens_trained": len(data)}
        _save(dictionary, weights, facts | trained, path)
        found = _measured(path, held)
        _amend(path, found)
        return (
            f"{'encoder' if shape.frozen else 'encoder and decoder'} trained for {config.steps:,} steps of {config.rows:,} tokens on {len(data):,}; "
            f"on {len(held):,} held out: variance explained {found['variance_explained']:.3f}, L0 {found['l0']:.1f}, {found['silent']:,} features silent"
        )

    def _l0(self, dictionary: SaeDictionary) -> float:
        return float(dictionary.stated["k"]) if "k" in dictionary.stated else self.work.check(dictionary).l0


def activations(subject: Subject, hook: str, corpus: Corpus, tokens: int, batch_tokens: int) -> tuple[Tensor, Tensor]:
    """About `tokens` activations [n, d] float32 to train on, from contexts spread over the corpus; and others, held out."""
    step = max(1, len(corpus.tokens) // tokens)
    picked = [
        corpus.tokens[s : s + n]
        for s, n in zip(corpus.context_start[::step], corpus.context_length[::step], strict=True)
    ]
    held = picked[_HELD - 1 :: _HELD] or picked
    kept = [sequence for i, sequence in enumerate(picked) if (i + 1) % _HELD] or picked
    return tuple(_read(subject, hook, some, batch_tokens) for some in (kept, held))  # type: ignore[return-value]


def _read(subject: Subject, hook: str, sequences: list[Ints], batch_tokens: int) -> Tensor:
    found = []
    for batch in batches(sequences, subject, batch_tokens=batch_tokens):
        read = subject.read(batch)[hook]
        found.append(read[batch.content.to(read.device)].float())
    return torch.cat(found)


def _centred(data: Tensor, dictionary: SaeDictionary) -> Tensor:
    return data - data.mean(-1, keepdim=True) if dictionary.centred else data


def _save(like: SaeDictionary, weights: dict[str, Tensor], facts: dict[str, Any], path: Path) -> None:
    """A SAELens folder of the kind of `like`: what its config says of hooks and contexts, other weights."""
    from sae_lens import SAE

    config = copy.deepcopy(like.sae.cfg)
    config.device, config.dtype = "cpu", "float32"
    for name in ("l0", "variance_explained", "neuronpedia_id"):
        config.metadata[name] = None  # the dictionary's, not the control's
    # the registry's word that inputs are centred lies outside of the config where the folder is of the newest format
    kept = {"center_writing_weights": True} if like.centred else {}
    if kept:
        config.metadata["model_from_pretrained_kwargs"] = {
            **(config.metadata.model_from_pretrained_kwargs or {}),
            **kept,
        }
    config.metadata["hf_hook_name"] = like.hook
    if like.hook_out:
        config.metadata["hf_hook_name_out"] = like.hook_out
    for name, value in facts.items():
        config.metadata[name] = value
    if facts["control"] != RANDOM:
        config.normalize_activations = "none"  # the training took care of it
        if not config.apply_b_dec_to_input:
            weights = weights | {"b_enc": weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]}
    made = SAE.get_sae_class_for_architecture(config.architecture())(config)
    made.load_state_dict({**made.state_dict(), **weights})
    made.save_model(path)


def _amend(path: Path, facts: dict[str, Any]) -> None:
    """Write into a control's config what was measured on it."""
    file = path / "cfg.json"
    stored = json.loads(file.read_text("utf-8"))
    stored["metadata"] |= facts
    file.write_text(json.dumps(stored, indent=1), "utf-8")


@torch.inference_mode()
def _measured(path: Path, held: Tensor) -> dict[str, Any]:
    """Variance explained, L0 and silent features of a control as it is loaded, on activations [n, d]."""
    made = SaeDictionary(str(path), device=str(held.device))
    residual, active = 0.0, torch.zeros(made.n_features, device=held.device)
    for part in torch.split(held, max(1, (1 << 24) // made.n_features)):
        features = made.encode(part)
        active += (features > 0).sum(0)
        if made.hook_out is None:
            residual += float((made.decode(features, part) - part).double().square().sum())
    found: dict[str, Any] = {"l0": round(float(active.sum()) / len(held), 3), "silent": int((active == 0).sum())}
    if made.hook_out is None:
        spread = float((held - held.mean(0)).double().square().sum())
        found["variance_explained"] = round(1 - residual / max(spread, 1e-12), 4)
    return found
