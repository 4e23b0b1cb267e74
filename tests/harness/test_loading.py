"""A model and its dictionaries load together at the hooks they name, and a wrong hook, model or width is said."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.saes.sae import SAEMetadata

from glossator.config import CorpusConfig, SubjectConfig, data_path
from glossator.errors import DictionaryError, SubjectError
from glossator.harness.contexts import Corpus, prepare
from glossator.harness.dictionary import SaeDictionary
from glossator.harness.loading import LoadingCheck, load_model, loading_check, other_model
from glossator.harness.neurons import NeuronDictionary
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.harness.subject import HFSubject, batches
from glossator.types import Document
from tests.conftest import PLANTED_CONFIG
from tests.harness.planted_runs import corpus_of
from tests.harness.small_models import WORDS, small_gpt2
from tests.harness.test_kinds import made

PRE, POST, MLP = "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"
D = 16


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_gpt2(tmp_path_factory.mktemp("models") / "small-gpt2")


def config(model: Path, *pairs: tuple[Path | str, str | None]) -> SubjectConfig:
    dictionaries, hooks = zip(*pairs, strict=True) if pairs else ((), ())
    return SubjectConfig(model=str(model), dictionaries=tuple(map(str, dictionaries)), hooks=hooks, corpus=())


def sae(path: Path, kind: str = "standard", **metadata: Any) -> Path:
    return made(path, kind, d_in=D, **({"d_out": D} if "transcoder" in kind else {}), metadata=metadata)


# ------------------------------------------------------------------ hooks


def test_each_dictionary_reads_where_its_config_says(tmp_path: Path, gpt2: Path) -> None:
    one, two = sae(tmp_path / "one", hook_name=PRE), sae(tmp_path / "two", "topk", hook_name=MLP)
    subject, dictionaries = load_model(config(gpt2, (one, None), (two, None)), 32, "cpu")
    assert [d.name for d in dictionaries] == ["one", "two"]
    assert [d.hook for d in dictionaries] == ["h.1:in", "h.1.mlp"]
    assert [d.hook_out for d in dictionaries] == [None, None]
    assert subject.hooks == ("h.1:in", "h.1.mlp")
    assert subject.context_size == 32


def test_a_hook_that_is_given_wins(tmp_path: Path, gpt2: Path) -> None:
    one = sae(tmp_path / "one", hook_name=PRE)
    silent = sae(tmp_path / "silent")
    _, dictionaries = load_model(config(gpt2, (one, "transformer.h.2"), (silent, POST)), 32, "cpu")
    assert [d.hook for d in dictionaries] == ["h.2", "h.1"]


def test_a_hook_that_nobody_names_is_an_error(tmp_path: Path, gpt2: Path) -> None:
    with pytest.raises(DictionaryError, match=r"silent: its config names no hook; say it with --hook"):
        load_model(config(gpt2, (sae(tmp_path / "silent"), None)), 32, "cpu")
    with pytest.raises(DictionaryError, match=r"neurons: .*--hook"):
        load_model(config(gpt2, ("neurons", None)), 32, "cpu")
    with pytest.raises(SubjectError, match=r"hook 'h\.77'"):
        load_model(config(gpt2, ("neurons", "h.77")), 32, "cpu")
    with pytest.raises(DictionaryError, match="--dictionary"):
        load_model(config(gpt2), 32, "cpu")


def test_two_dictionaries_and_neurons_at_one_hook(tmp_path: Path, gpt2: Path) -> None:
    one, two = sae(tmp_path / "one", hook_name=POST), sae(tmp_path / "two", hook_name=POST)
    what = config(gpt2, (one, None), ("neurons", "h.1"), (two, None), ("neurons", "h.1.mlp.c_proj:in"))
    subject, dictionaries = load_model(what, 32, "cpu")
    assert [d.hook for d in dictionaries] == ["h.1", "h.1", "h.1", "h.1.mlp.c_proj:in"]
    residual, hidden = dictionaries[1], dictionaries[3]
    assert isinstance(residual, NeuronDictionary)
    assert (residual.name, residual.n_features, residual.directions().shape) == ("neurons@h.1", 2 * D, (2 * D, D))
    weights = subject.output_weights("h.1.mlp.c_proj:in")
    assert weights is not None
    assert torch.equal(hidden.directions()[: 4 * D], weights)  # what each neuron writes


def test_a_transcoder_reads_and_writes_in_one_subject(tmp_path: Path, gpt2: Path) -> None:
    whole = sae(tmp_path / "whole", "transcoder", hook_name="blocks.1.hook_mlp_in", hook_name_out=MLP)
    lost = sae(tmp_path / "lost", "skip_transcoder", hook_name=PRE, hook_name_out="blocks.1.hook_nowhere")
    silent = sae(tmp_path / "silent", "transcoder", hook_name=PRE)
    plain = sae(tmp_path / "plain", hook_name=POST)
    what = config(gpt2, (lost, None), (whole, None), (silent, None), (plain, None))
    subject, dictionaries = load_model(what, 32, "cpu")
    assert [d.hook for d in dictionaries] == ["h.1:in", "h.1.ln_2:in", "h.1:in", "h.1"]
    assert [d.hook_out for d in dictionaries] == ["", "h.1.mlp", "", None]
    assert set(subject.widths) == {"h.1:in", "h.1.ln_2:in", "h.1", "h.1.mlp"}


def test_widths_and_names_are_checked(tmp_path: Path, gpt2: Path) -> None:
    narrow = made(tmp_path / "narrow", "standard", metadata={"hook_name": PRE})
    with pytest.raises(DictionaryError, match=rf"narrow: .*6 dimensions, the hook 'h\.1:in' gives {D}"):
        load_model(config(gpt2, (narrow, None)), 32, "cpu")
    ends = {"hook_name": PRE, "hook_name_out": MLP}
    writes_narrow = made(tmp_path / "out", "transcoder", d_in=D, metadata=ends)
    with pytest.raises(
        DictionaryError, match=rf"out: the transcoder writes 5 dimensions, the hook 'h\.1\.mlp' gives {D}"
    ):
        load_model(config(gpt2, (writes_narrow, None)), 32, "cpu")
    twins = [(sae(tmp_path / folder / "same", hook_name=PRE), None) for folder in "ab"]
    with pytest.raises(DictionaryError, match="same: 2 dictionaries have this name; rename a folder"):
        load_model(config(gpt2, *twins), 32, "cpu")


# ------------------------------------------------------------------ the model's name


@pytest.mark.parametrize(
    ("stated", "subject", "same"),
    [
        ("gpt2-small", "gpt2", True),
        ("gpt2", "openai-community/gpt2", True),
        ("GPT2", "some/folder/gpt2", True),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped", True),
        ("google/gemma-2-2b", "gemma-2-2b", True),
        ("nobody/own-model", "own-model", True),
        ("gpt2-small", "gpt2-medium", False),
        ("gemma-2-2b", "google/gemma-2-2b-it", False),
        ("nobody/own-model", "gpt2", False),
    ],
)
def test_model_names_are_compared_loosely(tmp_path: Path, stated: str, subject: str, same: bool) -> None:
    planted = PlantedSubject()
    planted.name = subject
    dictionary = SaeDictionary(str(sae(tmp_path / "mine", model_name=stated)))
    assert other_model(planted, dictionary) == (None if same else stated)


def test_a_dictionary_that_states_no_model_fits_any(tmp_path: Path) -> None:
    assert other_model(PlantedSubject(), SaeDictionary(str(sae(tmp_path / "mine")))) is None
    assert other_model(PlantedSubject(), PlantedDictionary()) is None


# ------------------------------------------------------------------ the loading check


class _Scaled(PlantedDictionary):
    """Encodes too much and decodes nothing: what a wrong hook looks like."""

    def encode(self, activations: torch.Tensor) -> torch.Tensor:
        return activations + 1

    def decode(self, features: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(features)

    def identity(self) -> dict[str, object]:
        return super().identity() | {"stated": {"l0": 2.0, "variance_explained": 0.9}}


class _Broken(PlantedDictionary):
    def decode(self, features: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        return features * torch.nan


def test_the_loading_check_of_a_perfect_dictionary_finds_all_variance(
    planted_subject: PlantedSubject, planted_dictionary: PlantedDictionary, planted_corpus: Corpus
) -> None:
    check = loading_check(planted_subject, planted_dictionary, planted_corpus, PLANTED_CONFIG)
    assert check.variance_explained == 1.0
    assert check.warnings == []
    assert check.summary.startswith("variance explained 1.00 (its card: 1.00), L0 ")


def test_the_loading_check_warns_of_a_dictionary_that_is_not_what_its_card_says(
    planted_subject: PlantedSubject, planted_corpus: Corpus
) -> None:
    check = loading_check(planted_subject, _Scaled(), planted_corpus, PLANTED_CONFIG)
    assert check.variance_explained is not None
    assert check.variance_explained <= 0
    assert check.l0 == planted_subject.d_hook
    assert len(check.warnings) == 3
    assert "right hook" in check.warnings[0]


def test_the_loading_check_warns_of_numbers_that_are_none(
    planted_subject: PlantedSubject, planted_corpus: Corpus
) -> None:
    check = loading_check(planted_subject, _Broken(), planted_corpus, PLANTED_CONFIG)
    assert check.warnings == ["what it reads or reconstructs is not all finite: is this the right hook?"]


def test_the_loading_check_survives_activations_that_do_not_vary() -> None:
    subject = PlantedSubject(PlantedSubject().features[:5])  # none of them knows these words
    texts = [" ".join(words) for words in product(("the", "that", "this", "lamp"), repeat=3)]
    corpus = corpus_of([Document(text, (text,)) for text in texts], subject)
    assert loading_check(subject, PlantedDictionary(5), corpus, PLANTED_CONFIG).variance_explained == 1.0


def test_the_loading_check_reads_each_dictionary_at_its_own_hook(planted_corpus: Corpus) -> None:
    subject = PlantedSubject(hooks=("planted", "planted:reversed"))

    class _FirstHalf(PlantedDictionary):
        def encode(self, activations: torch.Tensor) -> torch.Tensor:
            return activations * (torch.arange(self.d_in) < 3)

    at = [
        loading_check(subject, _FirstHalf(name=hook, hook=hook), planted_corpus, PLANTED_CONFIG).l0
        for hook in subject.hooks
    ]
    assert at[0] != at[1]


def test_a_model_that_is_another_is_a_warning() -> None:
    check = LoadingCheck(10.0, 0.9, None, None, "gpt2-small")
    assert check.warnings == ["it was made with the model gpt2-small: is this the right model?"]


def test_nothing_is_known_of_a_transcoder_whose_output_is_not_read() -> None:
    check = LoadingCheck(10.0, None, 9.0, 0.8)
    assert check.warnings == []
    assert "variance explained ? (its card: 0.80)" in check.summary


@pytest.fixture(scope="module")
def words(gpt2: Path) -> Corpus:
    subject = HFSubject(gpt2, "h.1")
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(0, len(WORDS), (300, 30), generator=generator)
    texts = [" ".join(WORDS[i] for i in row) for row in picks.tolist()]
    return prepare([Document(t, (t,)) for t in texts], subject.tokenize, subject.context_size, CorpusConfig())


def fitted(path: Path, model: Path, corpus: Corpus, hook: str, **metadata: Any) -> Path:
    """A dictionary of the 8 main directions of what this hook gives, both ways: it fits there and nowhere else."""
    subject = HFSubject(model, hook)
    sequences = [corpus.tokens[s : s + n] for s, n in zip(corpus.context_start, corpus.context_length, strict=True)]
    acts = torch.cat([subject.activations(b)[b.content] for b in batches(sequences, subject, batch_tokens=2048)])
    mean = acts.mean(0)
    main = torch.linalg.svd(acts - mean, full_matrices=False).Vh[:8]
    learned = StandardSAE(StandardSAEConfig(d_in=D, d_sae=16, metadata=SAEMetadata(**metadata)))
    both = torch.cat([main, -main])
    learned.W_dec.data, learned.W_enc.data, learned.b_dec.data = both, both.T.contiguous(), mean.clone()
    learned.b_enc.data.zero_()
    learned.save_model(path)
    return path


def test_a_wrong_hook_is_warned_of(tmp_path: Path, gpt2: Path, words: Corpus) -> None:
    stated = {"l0": 8.0, "variance_explained": 0.95, "model_name": "small-gpt2"}
    path = fitted(tmp_path / "mine", gpt2, words, "h.1.mlp", hook_name=MLP, **stated)
    checks = {}
    for hook in (None, "h.1", "h.0.attn"):
        subject, (dictionary,) = load_model(config(gpt2, (path, hook)), 32, "cpu")
        checks[hook] = loading_check(subject, dictionary, words, PLANTED_CONFIG)
    assert checks[None].warnings == []
    assert checks[None].variance_explained is not None
    assert checks[None].variance_explained > 0.9
    for hook in ("h.1", "h.0.attn"):
        assert any("variance" in warning for warning in checks[hook].warnings), checks[hook].summary


def test_a_transcoder_is_measured_at_its_output(tmp_path: Path, gpt2: Path, words: Corpus) -> None:
    """One that gives its input again explains all of it where input and output are one hook, and little of an MLP."""
    found = []
    for name, out in (("same", POST), ("other", MLP), ("nowhere", None)):
        path = made(
            tmp_path / name, "skip_transcoder", d_in=D, d_out=D, metadata={"hook_name": POST, "hook_name_out": out}
        )
        subject, (dictionary,) = load_model(config(gpt2, (path, None)), 32, "cpu")
        assert isinstance(dictionary, SaeDictionary)
        dictionary._sae.W_skip.data = torch.eye(D)
        dictionary._sae.W_dec.data.zero_()
        dictionary._sae.b_dec.data.zero_()
        found.append(loading_check(subject, dictionary, words, PLANTED_CONFIG))
    assert found[0].variance_explained == pytest.approx(1)
    assert found[1].variance_explained is not None
    assert found[1].variance_explained < 0.3
    assert found[2].variance_explained is None
    assert len({check.l0 for check in found}) == 1


def test_the_dense_buffer_of_the_check_is_bounded(
    tmp_path: Path, gpt2: Path, words: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, (dictionary,) = load_model(config(gpt2, (sae(tmp_path / "mine", "topk", hook_name=PRE), None)), 32, "cpu")
    whole = loading_check(subject, dictionary, words, PLANTED_CONFIG)
    sizes, encode = [], dictionary.encode
    monkeypatch.setattr(dictionary, "encode", lambda acts: sizes.append(len(acts)) or encode(acts))
    monkeypatch.setattr("glossator.harness.loading.MAX_DENSE", 100 * dictionary.n_features)
    parts = loading_check(subject, dictionary, words, PLANTED_CONFIG)
    assert max(sizes) == 100
    assert parts.variance_explained == pytest.approx(whole.variance_explained, rel=1e-4)
    assert parts.l0 == pytest.approx(whole.l0, rel=1e-3)
    assert parts.stated_l0 == 4  # k


@pytest.fixture(scope="module")
def demo_checks(minilm_path: Path, themes_corpus: Corpus) -> dict[str | None, LoadingCheck]:
    """The demo dictionary where its config says, and at two other layers."""
    folder = str(data_path("dictionaries", "minilm-l4"))
    found = {}
    for hook in (None, "encoder.layer.3", "encoder.layer.5"):
        what = config(minilm_path, (folder, hook)).model_copy(update={"model_name": "all-MiniLM-L6-v2"})
        subject, (dictionary,) = load_model(what, 256, "cpu")
        found[hook] = loading_check(subject, dictionary, themes_corpus, PLANTED_CONFIG)
    return found


@pytest.mark.real
def test_the_demo_dictionary_does_on_our_passages_what_its_card_says(
    demo_checks: dict[str | None, LoadingCheck],
) -> None:
    check = demo_checks[None]
    assert check.warnings == []
    assert check.variance_explained is not None
    assert check.variance_explained > 0.7
    assert check.stated_variance_explained == pytest.approx(0.8942)
    assert check.l0 == pytest.approx(24, abs=0.5)


@pytest.mark.real
def test_the_demo_dictionary_at_a_wrong_layer_is_warned_of(demo_checks: dict[str | None, LoadingCheck]) -> None:
    assert any("its card says variance explained 0.89" in w for w in demo_checks["encoder.layer.3"].warnings)
    assert any("right hook" in w for w in demo_checks["encoder.layer.5"].warnings)


# ------------------------------------------------------------------ contexts as the dictionary was trained


def test_contexts_have_the_length_and_the_bos_that_the_dictionary_states(tmp_path: Path, gpt2: Path) -> None:
    plain = sae(tmp_path / "plain", hook_name=PRE)
    subject, _ = load_model(config(gpt2, (plain, None)), None, "cpu")
    assert (subject.prefix, subject.context_size) == ((), 64)  # 256, but the model has no more
    trained = sae(tmp_path / "trained", hook_name=PRE, context_size=48, prepend_bos=True)
    subject, _ = load_model(config(gpt2, (trained, None), (plain, None)), None, "cpu")
    assert (len(subject.prefix), subject.context_size) == (1, 48)
    assert subject.vocabulary.special[subject.prefix[0]]
    (batch,) = batches([[300, 301]], subject, batch_tokens=512)
    assert batch.ids[0, :3].tolist() == [subject.prefix[0], 300, 301]
    assert batch.content[0, :3].tolist() == [False, True, True]  # the BOS is read, and never counted
    assert load_model(config(gpt2, (trained, None)), 32, "cpu")[0].context_size == 32  # who asks is asked
    without = sae(tmp_path / "without", hook_name=PRE, prepend_bos=False)
    with pytest.raises(DictionaryError, match=r"trained was trained with a BOS .* without without: harvest them apart"):
        load_model(config(gpt2, (trained, None), (without, None)), 32, "cpu")
