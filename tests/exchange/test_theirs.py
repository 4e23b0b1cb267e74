"""Scores of other tools: read as they define them, marked as theirs, in no view of ours; and files that do not fit."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from glossator.agents.run import Run
from glossator.errors import UsageError
from glossator.exchange import import_files


def prediction(active: bool, said: bool | None, key: str = "activating") -> dict[str, Any]:
    return {"str_tokens": ["a"], "distance": 1, key: active, "prediction": said, "probability": None, "correct": active is said, "activations": [0]}  # fmt: skip


def delphi(folder: Path, features: tuple[int, ...] = (0, 3)) -> Path:
    for part in ("explanations", "scores/fuzz", "scores/detection", "scores/embedding"):
        (folder / part).mkdir(parents=True)
    for index in features:
        (folder / f"explanations/planted_latent{index}.txt").write_text(json.dumps(f"label {index}"))
    hits = [prediction(True, True), prediction(True, True), prediction(True, False), prediction(True, None)]
    misses = [prediction(False, False), prediction(False, True), prediction(False, False), prediction(False, False)]
    (folder / "scores/fuzz/planted_latent0.txt").write_text(json.dumps(hits + misses))
    (folder / "scores/detection/planted_latent0.txt").write_text(json.dumps([prediction(True, True, "ground_truth")]))
    (folder / "scores/fuzz/planted_latent5.txt").write_text(json.dumps(hits))  # a feature without a label
    (folder / "scores/embedding/planted_latent0.txt").write_text(json.dumps([{"text": "a", "similarity": 0.5}]))
    return folder


def theirs(run: Run) -> dict[tuple[int, str, str], tuple[Any, ...]]:
    rows = run.store.sql("SELECT feature, predictor, metric, value, n, note FROM score WHERE split = 'theirs'")
    return {(feature, predictor, metric): tuple(rest) for feature, predictor, metric, *rest in rows}


def test_delphis_scores_are_what_delphi_reports(other: Run, tmp_path: Path) -> None:
    told = import_files(other, [delphi(tmp_path / "run")])
    found = theirs(other)
    assert set(found) == {(0, f"theirs:delphi:{s}", f"{s}_{m}") for s in ("fuzz", "detection") for m in ("balanced_accuracy", "f1")}  # fmt: skip
    value, n, note = found[0, "theirs:delphi:fuzz", "fuzz_balanced_accuracy"]
    assert value == pytest.approx((2 / 3 + 3 / 4) / 2) and n == 7 and "1 predictions could not be read" in note
    assert found[0, "theirs:delphi:fuzz", "fuzz_f1"][0] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found[0, "theirs:delphi:detection", "detection_balanced_accuracy"][:2] == (None, 1)  # no silent window
    assert "scores/embedding: no predictions" in told and "1 score files are about features without a label" in told
    assert other.store.sql("SELECT count(*) FROM scoreboard") == [(0,)]


def test_importing_again_replaces_scores_and_keeps_labels(other: Run, tmp_path: Path) -> None:
    folder = delphi(tmp_path / "run")
    import_files(other, [folder])
    before = theirs(other)
    assert "2 labels were here already" in import_files(other, [folder])
    assert theirs(other) == before and other.store.sql("SELECT count(*) FROM score") == [(4,)]
    (folder / "scores/detection/planted_latent0.txt").unlink()
    import_files(other, [folder])
    assert {metric for _, _, metric in theirs(other)} == {"fuzz_balanced_accuracy", "fuzz_f1"}


def test_scores_of_neuronpedia_keep_their_scorer_and_model(other: Run, tmp_path: Path) -> None:
    score = {
        "explanationScoreTypeName": "eleuther_fuzz",
        "explanationScoreModelName": "small",
        "value": 0.75,
        "jsonDetails": "{}",
    }
    row = {"modelId": "m", "layer": other.dictionary, "index": "3", "description": "years", "typeName": "pairs",
           "explanationModelName": "big", "scores": [score]}  # fmt: skip
    (tmp_path / "np.jsonl").write_text(json.dumps(row) + "\n")
    import_files(other, [tmp_path / "np.jsonl"])
    found = theirs(other)
    assert found[3, "theirs:neuronpedia:small", "eleuther_fuzz"][0] == 0.75
    assert other.store.sql("SELECT explainer, model FROM explanation") == [("imported:np:pairs/big", "big")]


LABEL = {"feature": 1, "label": "butter"}


@pytest.mark.parametrize(
    ("scores", "part"),
    [
        (["high"], r"line 1: score 1: is high, not an object"),
        ([{"value": 1}], r"score 1: metric or explanationScoreTypeName is None"),
        ([{"metric": "m", "value": "high"}], r"score 1: value is high; write a number"),
        ([{"metric": "m", "value": True}], r"value is True"),
        ([{"metric": "m", "value": 1, "n": 1.5}], r"n is 1.5"),
        ([{"metric": "m", "value": 1}, {"metric": "m", "value": 2}], r"score 2: m by the same predictor twice"),
    ],
)
def test_scores_that_are_none_are_refused_with_their_row_and_nothing_is_stored(
    other: Run, tmp_path: Path, scores: list[Any], part: str
) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(json.dumps(LABEL) + "\n")
    bad.write_text(json.dumps(LABEL | {"scores": scores}) + "\n")
    with pytest.raises(UsageError, match="bad.jsonl: .*" + part):
        import_files(other, [good, bad])
    assert other.store.sql("SELECT count(*) FROM explanation") == [(0,)] and theirs(other) == {}


def feature(**more: Any) -> dict[str, Any]:
    return {"modelId": "m", "layer": "x", "index": "1", "maxActApprox": 1.0, "frac_nonzero": 0.1} | more


def activation(**more: Any) -> dict[str, Any]:
    return {"modelId": "m", "layer": "x", "index": "1", "tokens": ["a", "b"], "values": [0, 1]} | more


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([feature(), feature(pos_values=["much"])], r"line 2: pos_values.0: Input should be a valid number"),
        ([feature(index="99")], r"f.jsonl: line 1: feature 99 does not exist: planted has 0 to 11"),
        ([feature(index="first")], r"feature first is no index"),
        ([feature(), feature(layer="y")], r"line 2: source y beside x, and which dictionaries"),
        ([activation(values=[1])], r"line 1: 2 tokens and 1 values"),
        ([activation(), activation(tokens="ab")], r"line 2: tokens: Input should be a valid list"),
        ([activation(index="12")], r"line 1: feature 12 does not exist: planted has 0 to 11"),
    ],
)
def test_features_and_activations_that_do_not_fit_are_refused_with_their_row(
    other: Run, tmp_path: Path, rows: list[dict[str, Any]], part: str
) -> None:
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match=part):
        import_files(other, [tmp_path / "f.jsonl"])
    for table in ("imported_file", "imported_feature", "imported_activation"):
        assert other.store.sql(f"SELECT count(*) FROM {table}") == [(0,)]


def test_half_a_file_is_refused(other: Run, tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(feature(index=str(i))) + "\n" for i in range(12)).encode())
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "batch-0.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"batch-0.jsonl.gz: (cut off|a damaged gzip)"):
        import_files(other, [tmp_path])
    (tmp_path / "l.jsonl").write_text(json.dumps(feature()) + "\n" + json.dumps(feature())[:40])
    with pytest.raises(UsageError, match=r"l.jsonl: line 2: not a whole JSON object"):
        import_files(other, [tmp_path / "l.jsonl"])
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(UsageError, match=r"x.parquet: not a whole Parquet file"):
        import_files(other, [tmp_path / "x.parquet"])


@pytest.mark.parametrize(
    ("file", "text", "part"),
    [
        ("scores/fuzz/planted_latent0.txt", "[{", "latent0.txt: not whole JSON"),
        ("scores/fuzz/planted_latent0.txt", "{}", "holds no list of predictions"),
        ("scores/fuzz/planted_latent0.txt", '[{"activating": true}]', "entry 1: has no `activating` and `prediction`"),
        ("scores/fuzz/notes.txt", "[]", "not named like"),
        ("scores/fuzz/planted_latent12.txt", "[]", "features that do not exist"),
    ],
)
def test_delphis_files_that_do_not_fit_are_refused(other: Run, tmp_path: Path, file: str, text: str, part: str) -> None:
    (delphi(tmp_path / "run") / file).write_text(text)
    with pytest.raises(UsageError, match=part):
        import_files(other, [tmp_path / "run"])
    assert other.store.sql("SELECT count(*) FROM explanation") == [(0,)]


def test_scores_alone_and_one_name_twice_are_refused(other: Run, tmp_path: Path) -> None:
    folder = delphi(tmp_path / "run")
    with pytest.raises(UsageError, match="scores need the labels that they are about"):
        import_files(other, [folder / "scores"])
    with pytest.raises(UsageError, match="are called imported:run, as those of"):
        import_files(other, [folder, folder])
    (tmp_path / "l.jsonl").write_text(json.dumps(LABEL))
    with pytest.raises(UsageError, match="--name: names one set"):
        import_files(other, [folder, tmp_path / "l.jsonl"], name="mine")
    with pytest.raises(UsageError, match="no such file"):
        import_files(other, [tmp_path / "nothing.jsonl"])


def test_features_of_another_dictionary_are_told_apart(other: Run, tmp_path: Path) -> None:
    density = dict(other.store.sql("SELECT feature, density FROM feature"))
    order = sorted(density, key=lambda f: density[f])
    swapped = dict(zip(order, [density[f] for f in reversed(order)], strict=True))
    rows = [feature(index=str(f), frac_nonzero=2 * x, maxActApprox=None) for f, x in swapped.items()]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = import_files(other, [tmp_path / "f.jsonl"])
    assert "rank correlation -" in told and "do they belong to this dictionary" in told
    assert "maximum: of 0 features, too few to compare" in told
    assert other.store.sql("SELECT count(*) FROM explanation") == [(0,)]
