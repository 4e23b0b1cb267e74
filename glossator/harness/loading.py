"""A model and the dictionaries that read it, loaded together; and whether a dictionary does here what its card says.

Dictionaries come first, because they say which hooks the model must give. Nothing here reads a whole corpus.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from glossator.config import HarvestConfig, SubjectConfig, located
from glossator.errors import DictionaryError, SubjectError
from glossator.harness.contexts import Corpus
from glossator.harness.dictionary import MAX_DENSE, Dictionary, SaeDictionary, check_width
from glossator.harness.neurons import NeuronDictionary
from glossator.harness.reinitialised import PREFIX, Twins, is_reinitialised
from glossator.harness.subject import HFSubject, Subject, batches

NEURONS = "neurons"
CONTEXT = 256  # tokens of a forward pass where nobody says otherwise
_LEAST_CONTEXT = 16
_SAMPLE = 8000  # tokens of the loading check


def load_model(
    what: SubjectConfig, context_size: int | None, device: str
) -> tuple[HFSubject | Twins, list[Dictionary]]:
    """The subject with every hook that is read, and the dictionaries in their order, which know their hooks' paths.

    Without a `context_size` the smallest that the dictionaries state, and as they state it a BOS before every context.
    Where a hook is one of the re-initialised subject, the subject stands for both.

    Raises DictionaryError or SubjectError. A dictionary that states another model is no error: `loading_check` warns.
    """
    what = located(what)
    sources = tuple(zip(what.dictionaries, what.hooks, strict=True))
    if not sources:
        raise DictionaryError("no dictionary is named: give one with --dictionary")
    loaded = [None if source == NEURONS else SaeDictionary(source, device=device) for source, _ in sources]
    inputs = [_input_hook(source, hook, sae) for (source, hook), sae in zip(sources, loaded, strict=True)]
    size = context_size or _stated_context(loaded) or CONTEXT
    trained = HFSubject(what.model, (), context_size=size, device=device, name=what.model_name)
    if _with_bos(loaded):
        trained.begin_with_bos()
    subject = Twins(trained) if any(map(is_reinitialised, inputs)) else trained
    outputs = _output_hooks(subject, loaded)
    subject.watch([*inputs, *(hook for hook in outputs if hook)])
    written = iter(subject.hooks[len(inputs) :])
    dictionaries: list[Dictionary] = []
    for sae, path, output in zip(loaded, subject.hooks, outputs, strict=False):
        if sae is None:
            dictionaries.append(_neurons(subject, path))
            continue
        if sae.stated.get("control"):
            sae.name = control_name(sae.stated["control_of"], sae.stated["control"])  # a folder cannot be called so
        sae.hook, sae.hook_out = path, next(written) if output else output
        check_width(sae, subject.widths[path], path)
        if sae.hook_out and sae.d_out != subject.widths[sae.hook_out]:
            raise DictionaryError(
                f"{sae.name}: the transcoder writes {sae.d_out} dimensions, the hook {sae.hook_out!r} gives "
                f"{subject.widths[sae.hook_out]}; was it made for another model?"
            )
        dictionaries.append(sae)
    _check_names(dictionaries)
    return subject, dictionaries


def control_name(dictionary: str, control: str) -> str:
    """What the control of a dictionary is called."""
    return f"{dictionary}~{control}"


def _neurons(subject: HFSubject | Twins, path: str) -> NeuronDictionary:
    """A hook's neurons; those of a re-initialised subject are the control of the trained one's."""
    found = NeuronDictionary(path, subject.widths[path], subject.output_weights(path))
    if is_reinitialised(path):
        of = found.name.replace(PREFIX, "")
        found.name = control_name(of, "reinitialised-subject")
        found.stated = {"control": "reinitialised-subject", "control_of": of}
    return found


def _stated_context(loaded: Sequence[SaeDictionary | None]) -> int | None:
    """The smallest context that one of them was trained on: none then reads further than it knows."""
    sizes = [size for sae in loaded if sae is not None and isinstance(size := sae.stated.get("context_size"), int)]
    return min((size for size in sizes if size >= _LEAST_CONTEXT), default=None)


def _with_bos(loaded: Sequence[SaeDictionary | None]) -> bool:
    """Whether they were trained with a BOS before every context. One pass has one kind of context."""
    said = {sae.name: bool(sae.stated["prepend_bos"]) for sae in loaded if sae and "prepend_bos" in sae.stated}
    if len(set(said.values())) > 1:
        names = [next(name for name, bos in said.items() if bos is value) for value in (True, False)]
        raise DictionaryError(
            f"{names[0]} was trained with a BOS token before every context, {names[1]} without: harvest them apart"
        )
    return any(said.values())


def _input_hook(source: str, hook: str | None, sae: SaeDictionary | None) -> str:
    found = hook or (sae.hook if sae is not None else "")
    if not found:
        which = "read the neurons of which module?" if sae is None else "its config names no hook;"
        raise DictionaryError(f"{source}: {which} say it with --hook")
    of_twin = sae is not None and sae.stated.get("control") == "reinitialised-subject"  # its config has the plain name
    return PREFIX + found if of_twin and not is_reinitialised(found) else found


def _output_hooks(subject: HFSubject | Twins, loaded: Sequence[SaeDictionary | None]) -> list[str | None]:
    """What each transcoder writes to; "" where its config names no hook that this model has, None for other kinds.

    Without it a transcoder encodes all the same: only its variance explained stays unknown.
    """
    found: list[str | None] = []
    for sae in loaded:
        hook = None if sae is None else sae.hook_out
        if hook:
            try:
                subject.watch(hook)
            except SubjectError:
                hook = ""
        found.append(hook)
    return found


def _check_names(dictionaries: Sequence[Dictionary]) -> None:
    name, times = Counter(d.name for d in dictionaries).most_common(1)[0]
    if times > 1:
        raise DictionaryError(f"{name}: {times} dictionaries have this name; rename a folder, or name each one once")


def other_model(subject: Subject, dictionary: Dictionary) -> str | None:
    """The model that the dictionary says it was made with, where that is not the subject by its name."""
    stated = dictionary.identity().get("stated", {}).get("model_name")
    if not stated or _plain(str(stated)) == _plain(subject.name):
        return None
    return str(stated)


def _plain(model: str) -> str:
    """The last part of a model's name, lower-case, by the hub's name where TransformerLens has a short one for it."""
    from transformer_lens.loading_from_pretrained import get_official_model_name

    last = Path(model.rstrip("/")).name.lower()
    try:
        return Path(str(get_official_model_name(last))).name.lower()
    except ValueError:  # it knows its own models only
        return last


@dataclass(frozen=True)
class LoadingCheck:
    """What the dictionary does on a sample of the corpus, beside what its own config says."""

    l0: float
    variance_explained: float | None  # None: a transcoder whose output is not read
    stated_l0: float | None
    stated_variance_explained: float | None
    other_model: str | None = None  # the model it says it was made with, if that is not the subject
    learned: bool = True  # neurons reconstruct exactly: that says nothing
    control: str | None = None  # what kind of control it is: its reconstruction may be as bad as it likes

    @property
    def summary(self) -> str:
        explained = "?" if self.variance_explained is None else f"{self.variance_explained:.2f}"
        if self.control == "random-dictionary":
            return f"L0 {self.l0:.1f}{_card(self.stated_l0)}"
        found = [f"variance explained {explained}{_card(self.stated_variance_explained)}"] if self.learned else []
        return ", ".join([*found, f"L0 {self.l0:.1f}{_card(self.stated_l0)}"])

    @property
    def warnings(self) -> list[str]:
        found = []
        if self.other_model is not None:
            found.append(f"it was made with the model {self.other_model}: is this the right model?")
        if self.variance_explained is not None and self.control is None:
            found += self._explains_too_little(self.variance_explained)
        if self.stated_l0 and not 0.5 < self.l0 / self.stated_l0 < 2:
            found.append(f"its card says L0 {self.stated_l0:.1f}, here it is {self.l0:.1f}")
        return found

    def _explains_too_little(self, explained: float) -> list[str]:
        found = []
        if not math.isfinite(explained):
            return ["what it reads or reconstructs is not all finite: is this the right hook?"]
        if explained < 0.3:
            found.append(f"it explains {explained:.2f} of the variance: is this the right hook?")
        if self.stated_variance_explained is not None and explained < self.stated_variance_explained - 0.2:
            found.append(
                f"its card says variance explained {self.stated_variance_explained:.2f}, here it is {explained:.2f}"
            )
        return found


def _card(stated: float | None) -> str:
    return "" if stated is None else f" (its card: {stated:.2f})"


@dataclass
class _Sums:
    """Running sums in float64: the sample's activations are never held together."""

    tokens: int = 0
    active: int = 0
    residual: float = 0.0
    square: float = 0.0
    total: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))

    def add(self, features: Tensor, target: Tensor | None, decoded: Tensor | None) -> None:
        self.tokens += len(features)
        self.active += int((features > 0).sum())
        if target is not None and decoded is not None:
            exact = target.double()
            self.residual += float((exact - decoded.to(exact.device)).square().sum())
            self.square += float(exact.square().sum())
            self.total = self.total + exact.sum(0).cpu()

    def explained(self) -> float:
        spread = self.square - float(self.total.square().sum()) / max(self.tokens, 1)
        return 1 - self.residual / max(spread, 1e-12)


def loading_check(subject: Subject, dictionary: Dictionary, corpus: Corpus, config: HarvestConfig) -> LoadingCheck:
    """Variance explained and L0 on about 8,000 tokens spread over the corpus; a transcoder's at its output hook.

    Variance is about the mean over the sample. Encoded in parts, so that no dense buffer grows with the dictionary.
    """
    check_width(dictionary, subject.widths[dictionary.hook], dictionary.hook)
    sums = _Sums()
    rows = max(1, min(config.encode_tokens, MAX_DENSE // dictionary.n_features))
    for given, target in _sample(subject, dictionary, corpus, config):
        for begin in range(0, len(given), rows):
            part = given[begin : begin + rows]
            features = dictionary.encode(part)
            if target is None:
                sums.add(features, None, None)
            else:
                sums.add(features, target[begin : begin + rows], dictionary.decode(features, part))
    stated = dictionary.identity().get("stated", {})
    return LoadingCheck(
        sums.active / max(sums.tokens, 1),
        None if dictionary.hook_out == "" else sums.explained(),
        stated.get("l0") or stated.get("k"),
        stated.get("variance_explained"),
        other_model(subject, dictionary),
        not isinstance(dictionary, NeuronDictionary),
        stated.get("control"),
    )


def _sample(
    subject: Subject, dictionary: Dictionary, corpus: Corpus, config: HarvestConfig
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """What the dictionary reads and what it should reconstruct, [tokens, d] each, batch by batch."""
    step = max(1, int(corpus.context_length.sum()) // _SAMPLE)
    picked = [
        corpus.tokens[s : s + n]
        for s, n in zip(corpus.context_start[::step], corpus.context_length[::step], strict=True)
    ]
    goal = dictionary.hook if dictionary.hook_out is None else dictionary.hook_out
    for batch in batches(picked, subject, batch_tokens=config.batch_tokens):
        read = subject.read(batch)
        content = batch.content.to(read[dictionary.hook].device)
        given = read[dictionary.hook][content]
        yield given, read[goal][content] if goal else None
