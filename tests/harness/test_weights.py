"""Another model of the same name is noticed, whichever of its numbers is another, also by run files of older versions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import BatchNorm1d, Linear, Module, Sequential

from glossator import pipeline
from glossator.agents.run import Run
from glossator.config import Recipe
from glossator.errors import UsageError
from glossator.harness.subject import HFSubject
from glossator.harness.weights import digest_of, fits
from glossator.store.store import Store
from tests.harness.planted_runs import small_recipe
from tests.harness.small_models import small_encoder


def model() -> Sequential:
    torch.manual_seed(0)
    return Sequential(Linear(40, 30), BatchNorm1d(30))


def old_digest(module: Module) -> str:
    """As the first versions wrote it into run files."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in module.named_parameters():
        digest.update(name.encode() + parameter.detach().flatten()[:64].float().numpy().tobytes())
    return digest.hexdigest()


def test_every_number_counts_in_parameters_and_in_buffers() -> None:
    same = digest_of(model())
    assert same == digest_of(model())
    assert model().state_dict()["1.num_batches_tracked"].ndim == 0  # a single number counts, too
    for name in model().state_dict():
        changed = model()
        with torch.no_grad():
            changed.state_dict()[name].view(-1)[-1] += 1
        assert digest_of(changed) != same, name
        assert digest_of(changed, {name}) == digest_of(model(), {name})
    assert digest_of(model().to(torch.bfloat16)) == digest_of(model().to(torch.bfloat16)) != same


def test_the_text_of_older_versions_is_compared_in_their_way() -> None:
    older, current = old_digest(model()), digest_of(model())
    assert fits(model(), older, current) and fits(model(), current, current)
    first, late = model(), model()
    with torch.no_grad():
        first[0].weight[0, 0] += 1
        late[0].weight[-1, -1] += 1
    assert not fits(first, older, digest_of(first))
    assert fits(late, older, digest_of(late))  # they could not see it
    assert not fits(late, current, digest_of(late))


def test_a_subject_says_what_stands_around_a_context(tmp_path: Path) -> None:
    subject = HFSubject(small_encoder(tmp_path), "encoder.layer.1")
    said = subject.identity()
    assert said["weights"].startswith("all:")
    assert (said["prefix"], said["suffix"]) == (list(subject.prefix), list(subject.suffix))
    assert said["suffix"]


def test_weights_that_the_checkpoint_lacks_are_no_part_of_it(tmp_path: Path) -> None:
    """Many encoders come without the pooler that their class has: it is random each time, and after every hook."""
    path = small_encoder(tmp_path)
    tensors = {name: tensor for name, tensor in load_file(path / "model.safetensors").items() if "pooler" not in name}
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    one, two = (HFSubject(path, "encoder.layer.1") for _ in range(2))
    assert not torch.equal(one._model.pooler.dense.weight, two._model.pooler.dense.weight)
    assert one.identity() == two.identity()


@pytest.fixture(scope="module")
def harvested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    folder = tmp_path_factory.mktemp("harvested")
    recipe = small_recipe(folder, 60)
    pipeline.harvest(folder / "run.duckdb", recipe)
    return recipe, folder / "run.duckdb"


def store_weights(path: Path, weights: str) -> None:
    with Store(path) as store:
        for dictionary, text in store.sql("SELECT dictionary, identity FROM dictionary"):
            identity = json.loads(text)
            identity["subject"]["weights"] = weights
            store.execute("UPDATE dictionary SET identity = ? WHERE dictionary = ?", [json.dumps(identity), dictionary])


def test_run_files_of_all_versions_load_their_model_and_no_other(harvested: tuple[Recipe, Path]) -> None:
    recipe, path = harvested

    def loads() -> bool:
        with Store(path) as store:
            return bool(Run(store, "one").model())

    assert loads()
    store_weights(path, old_digest(HFSubject(recipe.subject.model, "h.1")._model))
    assert loads()
    for other in ("0123456789abcdef", "all:0123456789abcdef"):
        store_weights(path, other)
        with pytest.raises(UsageError, match="the model or dictionary on disk is not the one that was harvested"):
            loads()
    store_weights(path, HFSubject(recipe.subject.model, "h.1").identity()["weights"])
    assert loads()
    file = Path(recipe.subject.model) / "model.safetensors"
    tensors = load_file(file)
    tensors["transformer.h.1.mlp.c_fc.weight"][-1, -1] += 1
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UsageError, match="is not the one that was harvested"):
        loads()
