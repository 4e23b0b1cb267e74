"""Controls: dictionaries like the real one in kind, size and sparsity, harvested beside it, and told from it everywhere."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from sae_lens.registry import get_sae_class
from torch import Tensor

from glossator import pipeline
from glossator.agents.run import Run
from glossator.config import CONTROLS, ControlConfig, Recipe, harvest_recipe
from glossator.errors import UsageError
from glossator.harness.control_random import random_weights
from glossator.harness.control_training import Shape, train
from glossator.harness.controls import folder_of, set_up_with_controls
from glossator.harness.dictionary import SaeDictionary
from glossator.harness.hooks import module_path
from glossator.harness.measurer import Measurer
from glossator.harness.reinitialised import PREFIX, ReinitialisedSubject, Twins
from glossator.harness.subject import HFSubject, batches
from glossator.harness.workers import set_up
from glossator.store.records import the_dictionary
from glossator.store.store import Store
from tests.harness.planted_runs import small_recipe
from tests.harness.small_models import small_encoder, small_gpt2, small_llama

QUICK = ControlConfig(tokens=2048, steps=60, rows=128, sample=1024)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny GPT-2, one random dictionary, planted documents; all three controls."""
    found = small_recipe(tmp_path_factory.mktemp("controls"), 60)
    one = {"dictionaries": found.subject.dictionaries[:1], "hooks": found.subject.hooks[:1]}
    what = found.subject.model_copy(update=one)
    return found.model_copy(update={"subject": what, "controls": CONTROLS, "control": QUICK})


@pytest.fixture(scope="module")
def run_file(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.duckdb"
    pipeline.harvest(path, recipe)
    return path


def said_by(recipe: Recipe, path: Path) -> tuple[list[str], Recipe]:
    said: list[str] = []
    _, whole = set_up_with_controls(recipe, path, 1, lambda *_: None, said.append)
    return said, whole


# --------------------------------------------------------------------------- in the run file


def test_controls_stand_beside_the_real_dictionary_in_one_run_file(run_file: Path) -> None:
    with Store(run_file) as store:
        rows = store.sql("SELECT dictionary, control, control_of, hook, n_features FROM dictionary ORDER BY ALL")
        assert rows == [
            ("one", None, None, "h.0", 48),
            ("one~frozen-decoder", "frozen-decoder", "one", "h.0", 48),
            ("one~random-dictionary", "random-dictionary", "one", "h.0", 48),
            ("one~reinitialised-subject", "reinitialised-subject", "one", PREFIX + "h.0", 48),
        ]
        assert store.sql("SELECT count(DISTINCT dictionary), count(*) FROM feature") == [(4, 4 * 48)]
        (l0,) = store.sql("SELECT list(l0) FROM dictionary")[0]
        assert max(l0) <= 4.001
        assert min(l0) > 3.9
        real, *_ = (json.loads(i) for (i,) in store.sql("SELECT identity FROM dictionary ORDER BY dictionary"))
        assert "reinitialised" not in real["subject"]  # the real one's row says what it would say alone


def test_the_real_dictionary_is_harvested_as_it_would_be_alone(recipe: Recipe, run_file: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.duckdb"
    pipeline.harvest(alone, recipe.model_copy(update={"controls": ()}))
    found = []
    for path in (alone, run_file):
        with Store(path) as store:
            found.append(store.sql("SELECT digest, config FROM harvest WHERE dictionary = 'one'"))
            found.append(store.sql("SELECT * FROM token"))
    assert found[:2] == found[2:]


def test_every_control_is_loaded_again_for_probing_and_does_what_was_harvested(run_file: Path) -> None:
    with Store(run_file) as store:
        for name in ("one", *(f"one~{control}" for control in CONTROLS)):
            run = Run(store, name)
            subject, dictionary = run.model()
            assert dictionary.name == name
            window, most = store.sql(
                "SELECT window_id, max_activation FROM exemplar WHERE dictionary = ? AND stratum = 'top' ORDER BY max_activation DESC LIMIT 1",
                [name],
            )[0]
            measured = measured_maximum(run, subject, dictionary, window)
            assert measured == pytest.approx(most, rel=1e-3)


def measured_maximum(run: Run, subject: object, dictionary: object, window: int) -> float:
    """The highest activation of the window's strongest feature when the window's document is read again."""
    feature, document = run.store.sql(
        "SELECT e.feature, d.name FROM exemplar e JOIN text_window w USING (window_id) JOIN document d USING (document) "
        "WHERE e.dictionary = ? AND e.window_id = ? ORDER BY e.max_activation DESC LIMIT 1",
        [run.dictionary, window],
    )[0]
    (source,) = run.store.sql("SELECT sources[1] FROM corpus")[0]
    texts = {f"text.jsonl:{row['name']}": row["text"] for row in map(json.loads, Path(source).read_text().splitlines())}
    measurer = Measurer(subject, dictionary)  # type: ignore[arg-type]
    ids = measurer.tokenize([texts[document]])[0]
    pieces = [ids[i : i + 64] for i in range(0, len(ids), 64)]
    most = 0.0
    for batch in batches(pieces, subject, batch_tokens=512):  # type: ignore[arg-type]
        values = measurer._encode(batch)
        most = max(most, float(values[batch.content][:, feature].max()))
    return most


def test_a_run_file_that_was_moved_with_its_controls_finds_them(run_file: Path, tmp_path: Path) -> None:
    shutil.copy(run_file, tmp_path / "moved.duckdb")
    shutil.copytree(folder_of(run_file), tmp_path / "moved.duckdb.controls")
    with Store(tmp_path / "moved.duckdb") as store:
        store.execute("UPDATE dictionary SET identity = replace(identity, 'run.duckdb.controls', 'gone.controls')")
        assert Run(store, "one~frozen-decoder").model()[1].name == "one~frozen-decoder"


def test_a_control_whose_weights_were_changed_is_not_probed(run_file: Path, tmp_path: Path) -> None:
    shutil.copy(run_file, tmp_path / "run.duckdb")
    controls = Path(shutil.copytree(folder_of(run_file), tmp_path / "run.duckdb.controls"))
    shutil.copytree(controls / "one~frozen-decoder", controls / "one~random-dictionary", dirs_exist_ok=True)
    with Store(tmp_path / "run.duckdb") as store, pytest.raises(UsageError, match="not the one that was harvested"):
        Run(store, "one~random-dictionary").model()


def test_the_real_dictionary_is_meant_where_none_is_named(run_file: Path) -> None:
    with Store(run_file) as store:
        assert the_dictionary(store) == "one"
        assert the_dictionary(store, "one~frozen-decoder") == "one~frozen-decoder"


# --------------------------------------------------------------------------- made once


def test_a_harvest_that_was_stopped_finds_its_controls_again(recipe: Recipe, tmp_path: Path) -> None:
    made, first = said_by(recipe, tmp_path / "run.duckdb")
    before = {path: path.stat().st_mtime_ns for path in folder_of(tmp_path / "run.duckdb").rglob("*")}
    found, second = said_by(recipe, tmp_path / "run.duckdb")
    assert first == second
    assert all("found in" not in line for line in made)
    assert all("found in" in line for line in found)
    assert len(found) == 3
    assert before == {path: path.stat().st_mtime_ns for path in folder_of(tmp_path / "run.duckdb").rglob("*")}
    assert not list(folder_of(tmp_path / "run.duckdb").glob(".making*"))


def test_what_a_killed_process_left_half_made_is_removed_once_it_is_old(recipe: Recipe, tmp_path: Path) -> None:
    old, young = (folder_of(tmp_path / "run") / f".making-{age}" for age in ("old", "young"))
    for path in (old, young):
        path.mkdir(parents=True)
        (path / "cfg.json").write_text("{")
    os.utime(old, (0, 0))
    said_by(recipe, tmp_path / "run")
    assert not old.exists()
    assert young.exists()  # another process may be writing it


def test_controls_are_the_same_wherever_they_are_made(recipe: Recipe, tmp_path: Path) -> None:
    for name in ("a", "b"):
        said_by(recipe, tmp_path / name)
    for control in CONTROLS:
        one, two = (folder_of(tmp_path / n) / f"one~{control}" / "sae_weights.safetensors" for n in ("a", "b"))
        assert one.read_bytes() == two.read_bytes()


def test_another_harvest_does_not_take_the_controls_that_lie_there(recipe: Recipe, tmp_path: Path) -> None:
    said_by(recipe, tmp_path / "run")
    other = recipe.model_copy(update={"control": QUICK.model_copy(update={"seed": 1})})
    with pytest.raises(UsageError, match="made from another dictionary, subject, corpus or recipe; delete it"):
        said_by(other, tmp_path / "run")
    (folder_of(tmp_path / "run") / "one~random-dictionary" / "cfg.json").write_text("{")
    with pytest.raises(UsageError, match="is no control; delete it"):
        said_by(recipe, tmp_path / "run")


def test_shards_with_controls_are_merged_into_the_same_run(recipe: Recipe, run_file: Path, tmp_path: Path) -> None:
    for number in (2, 1):
        pipeline.harvest_shard(tmp_path / "run.duckdb", recipe, number, 2)
    pipeline.merge(tmp_path / "run.duckdb", [tmp_path / "run.duckdb.harvest"])
    digests = "SELECT dictionary, n_features, weights FROM (SELECT *, identity->>'$.dictionary.weights' AS weights FROM dictionary) ORDER BY ALL"
    with Store(tmp_path / "run.duckdb") as merged, Store(run_file) as whole:
        assert merged.sql(digests) == whole.sql(digests)
        assert merged.sql("SELECT dictionary, active_per_token FROM harvest ORDER BY ALL") == whole.sql(
            "SELECT dictionary, active_per_token FROM harvest ORDER BY ALL"
        )


@pytest.mark.slow
def test_worker_processes_read_the_controls_that_the_driver_made(recipe: Recipe, tmp_path: Path) -> None:
    pipeline.harvest(tmp_path / "two.duckdb", recipe, workers=2)
    with Store(tmp_path / "two.duckdb") as store:
        assert store.sql("SELECT count(*) FROM dictionary WHERE control IS NOT NULL") == [(3,)]


# --------------------------------------------------------------------------- random directions


@pytest.mark.parametrize("architecture", ["topk", "standard", "jumprelu"])
def test_random_features_have_the_norms_and_about_the_densities_of_the_real_ones(
    architecture: str, tmp_path: Path
) -> None:
    like, data = learned(architecture, tmp_path / "like")
    weights = random_weights(like, data, QUICK)
    made = saved(like, weights, tmp_path / "made")
    for name, axis in (("W_enc", 0), ("W_dec", 1)):
        torch.testing.assert_close(weights[name].norm(dim=axis), like.sae.state_dict()[name].norm(dim=axis))
    assert (torch.cosine_similarity(weights["W_enc"].T, like.sae.W_enc.T).abs()).max() < 0.9
    assert (torch.cosine_similarity(weights["W_enc"].T, weights["W_dec"])).min() > 0.999
    real, random = (torch.bincount(d.active(data)[1], minlength=64).float() / len(data) for d in (like, made))
    if architecture == "topk":
        assert float(random.sum()) == pytest.approx(4, rel=0.01)
        assert float(torch.corrcoef(torch.stack([real, random]))[0, 1]) > 0.95
        assert float((real - random).abs().mean()) < 0.15 * float(real.mean())
    else:
        torch.testing.assert_close(real, random, atol=2 / len(data), rtol=0)


def test_random_poles_keep_the_number_of_active_features(tmp_path: Path) -> None:
    like, data = learned("abstopk", tmp_path / "like")
    made = saved(like, random_weights(like, data, QUICK), tmp_path / "made")
    assert len(made.active(data)[0]) == 4 * len(data)


# --------------------------------------------------------------------------- trained


@pytest.mark.parametrize("architecture", ["topk", "abstopk", "standard", "jumprelu"])
@pytest.mark.parametrize("frozen", [True, False])
def test_training_reconstructs_at_the_sparsity_that_was_asked_for(
    architecture: str, frozen: bool, tmp_path: Path
) -> None:
    like = empty(architecture, tmp_path / "like")
    data = mixtures(6000)
    shape = Shape(architecture, 64, 4.0, frozen)
    config = ControlConfig(steps=300, rows=256, sample=2048)
    steps: list[int] = []
    weights = train(data, shape, config, lambda done, of: steps.append(done))
    assert steps == list(range(1, 301))
    made = saved(like, weights, tmp_path / "made")
    held = mixtures(2000, seed=9)
    features = made.encode(held)
    l0 = float((features > 0).sum()) / len(held)
    assert l0 == pytest.approx(4.0, rel=0.2)
    explained = 1 - float((made.decode(features, held) - held).square().sum() / (held - held.mean(0)).square().sum())
    assert explained > (0.3 if frozen else 0.6)
    drawn = train(data, shape, config.model_copy(update={"steps": 1}), lambda *_: None)["W_dec"]
    moved = 1 - torch.cosine_similarity(drawn, weights["W_dec"])
    assert bool((moved.abs() < 1e-5).all()) is frozen


# --------------------------------------------------------------------------- the subject before training


@pytest.mark.parametrize("make", [small_gpt2, small_llama, small_encoder])
def test_every_weight_of_a_reinitialised_subject_is_drawn_anew_and_always_the_same(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    subject = HFSubject(make(tmp_path), ())
    one, two = ReinitialisedSubject(subject), ReinitialisedSubject(subject)
    before, after = (dict(s._model.named_parameters()) for s in (subject, one))
    assert before.keys() == after.keys()
    drawn = [name for name, weight in after.items() if weight.std() > 0]
    assert any("embed" in name or "wte" in name for name in drawn)
    assert not [name for name in drawn if torch.equal(before[name], after[name])]
    assert one.identity()["weights"] == two.identity()["weights"] != subject.identity()["weights"]
    assert one.has_weights(two.identity()["weights"])
    assert (one.vocabulary, one.prefix, one.context_size) == (subject.vocabulary, subject.prefix, subject.context_size)


def test_twins_give_what_each_gives_alone(tmp_path: Path) -> None:
    path = small_gpt2(tmp_path)
    trained, alone = HFSubject(path, "h.1"), HFSubject(path, "h.1")
    twins = Twins(trained)
    twins.watch([PREFIX + "blocks.1.hook_resid_post", "h.1", PREFIX + "h.0"])
    assert twins.hooks == (PREFIX + "h.1", "h.1", PREFIX + "h.0")
    other = ReinitialisedSubject(alone)
    other.watch(["h.1", "h.0"])
    batch = next(batches([[5, 6, 7, 8]], twins, batch_tokens=512))
    read = twins.read(batch)
    torch.testing.assert_close(read["h.1"], alone.read(batch)["h.1"], rtol=0, atol=0)
    for hook in ("h.0", "h.1"):
        torch.testing.assert_close(read[PREFIX + hook], other.read(batch)[hook], rtol=0, atol=0)
    assert not torch.equal(read["h.1"], read[PREFIX + "h.1"])
    assert twins.causal


# --------------------------------------------------------------------------- what cannot be


def test_neurons_have_a_reinitialised_control_alone(recipe: Recipe, tmp_path: Path) -> None:
    names = (recipe.subject.model, ["h.0"], ["neurons"], recipe.subject.corpus)
    flags = {"tokens": None, "context_size": 64, "device": "cpu", "workers": 1, "near_by": ("overlap",)}
    for control in CONTROLS[:2]:
        with pytest.raises(UsageError, match="neurons have no weights to be random or frozen"):
            harvest_recipe(names, controls=[control], **flags)  # type: ignore[arg-type]
    asked = harvest_recipe(names, controls=[CONTROLS[2]], **flags)  # type: ignore[arg-type]
    pipeline.harvest(tmp_path / "run.duckdb", asked.model_copy(update={"harvest": recipe.harvest}))
    with Store(tmp_path / "run.duckdb") as store:
        assert store.sql("SELECT dictionary, control_of FROM dictionary ORDER BY ALL") == [
            ("neurons@h.0", None),
            ("neurons@h.0~reinitialised-subject", "neurons@h.0"),
        ]
        subject, dictionary = Run(store, "neurons@h.0~reinitialised-subject").model()
        assert dictionary.hook == PREFIX + "h.0"
        assert dictionary.hook in subject.widths


def test_an_unknown_control_is_named() -> None:
    with pytest.raises(UsageError, match="--control frozen: known are random-dictionary, frozen-decoder"):
        harvest_recipe(
            ("m", [], ["d"], ["c"]), tokens=None, context_size=None, device="cpu", workers=1, near_by=(), controls=["frozen"]
        )  # fmt: skip


@pytest.mark.parametrize("control", CONTROLS)
def test_an_architecture_that_a_control_is_not_made_for_is_refused_before_anything_is_made(
    control: str, recipe: Recipe, tmp_path: Path
) -> None:
    empty("gated", tmp_path / "gated")
    what = recipe.subject.model_copy(update={"dictionaries": (str(tmp_path / "gated"),)})
    with pytest.raises(
        UsageError, match=f"--control {control}: gated is of the architecture gated; this control is made for topk"
    ):
        said_by(recipe.model_copy(update={"subject": what, "controls": (control,)}), tmp_path / "run")
    assert not folder_of(tmp_path / "run").exists()


def test_a_control_gets_no_controls_of_its_own(recipe: Recipe, run_file: Path, tmp_path: Path) -> None:
    made = str(folder_of(run_file) / "one~reinitialised-subject")
    what = recipe.subject.model_copy(update={"dictionaries": (made,), "hooks": (None,)})
    with pytest.raises(UsageError, match="is a control itself"):
        said_by(recipe.model_copy(update={"subject": what}), tmp_path / "run")
    work = set_up(recipe.model_copy(update={"subject": what, "controls": ()}))
    assert work.dictionaries[0].hook == PREFIX + "h.0"  # its config has the plain name, but it reads the twin
    assert module_path("h.0", work.subject.twin._model, "x") == "h.0"  # type: ignore[attr-defined]


# --------------------------------------------------------------------------- doubles


def mixtures(n: int, seed: int = 3) -> Tensor:
    """Sparse sums of 40 fixed directions in 16 dimensions: what a dictionary can find."""
    rng = torch.Generator().manual_seed(5)
    directions = torch.nn.functional.normalize(torch.randn(40, 16, generator=rng), dim=-1)
    rng = torch.Generator().manual_seed(seed)
    chance = torch.linspace(0.01, 0.12, 40)
    amounts = (torch.rand(n, 40, generator=rng) < chance) * (1 + torch.rand(n, 40, generator=rng))
    return amounts @ directions + 0.05 * torch.randn(n, 16, generator=rng) + 0.3


def empty(architecture: str, path: Path) -> SaeDictionary:
    kind, config_of = get_sae_class(architecture)
    more = {"k": 4} if "topk" in architecture else {}
    config = config_of(d_in=16, d_sae=64, device="cpu", **more)
    config.metadata.hook_name = "blocks.0.hook_resid_post"
    kind(config).save_model(path)
    return SaeDictionary(str(path))


def saved(like: SaeDictionary, weights: dict[str, Tensor], path: Path) -> SaeDictionary:
    made = type(like.sae)(like.sae.cfg)
    made.load_state_dict({**made.state_dict(), **weights})
    made.save_model(path)
    return SaeDictionary(str(path))


def learned(architecture: str, path: Path) -> tuple[SaeDictionary, Tensor]:
    """A dictionary that has learned the mixtures, with lengths of its own, and mixtures."""
    data = mixtures(4000)
    like = empty(architecture, path / "empty")
    weights = train(
        data, Shape(architecture, 64, 4.0, frozen=False), ControlConfig(steps=150, rows=256), lambda *_: None
    )
    sizes = torch.linspace(0.5, 2, 64)
    if architecture == "topk":
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * sizes, weights["b_enc"] * sizes
    return saved(like, weights, path / "learned"), data
