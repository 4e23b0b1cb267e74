"""Other people's labels: what was written is read field by field, and what does not fit is refused with its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from glossator.agents.others.imported import Extent, Imported, extents, read_labels
from glossator.agents.others.label_files import clean
from glossator.errors import UsageError
from glossator.store.store import Store

N = 100
ONE = {"sae": Extent(N, hook="model.layers.4")}
TWO = {"a": Extent(N, hook="encoder.layer.4"), "b": Extent(N, hook="encoder.layer.5.mlp")}
POLES = {"neurons": Extent(2 * N, signed=True)}

visible = st.text(min_size=1, max_size=80).filter(lambda t: any(c.isprintable() and not c.isspace() for c in clean(t)))
encodable = visible.filter(lambda t: t.isprintable() or not any(0xD800 <= ord(c) < 0xE000 for c in t))
label_sets = st.dictionaries(st.integers(0, N - 1), visible, min_size=1, max_size=8)
text_sets = st.dictionaries(st.integers(0, N - 1), encodable, min_size=1, max_size=8)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(labels: dict[int, str], separator: str = ",", end: str = "\r\n", quoting: int = csv.QUOTE_MINIMAL) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(["feature", "label"])
    writer.writerows(labels.items())
    return out.getvalue()


def neuronpedia(
    index: int, description: str | None, method: str | None = "pairs", model: str | None = "m1"
) -> dict[str, Any]:
    return {
        "id": f"x{index}", "modelId": "gpt2-small", "layer": "6-res-jb", "index": str(index), "description": description,
        "typeName": method, "explanationModelName": model, "authorId": "someone",
    }  # fmt: skip


def read(content: str | bytes, name: str = "theirs.jsonl", known: dict[str, Extent] | None = None) -> Imported:
    with tempfile.TemporaryDirectory() as folder:
        return read_labels(write(Path(folder), name, content), known or ONE)


def labels(found: Imported) -> dict[int, str | None]:
    return {one.feature: one.text for one in found.explanations}


def refusal(path: Path, known: dict[str, Extent] | None = None, explainer: str | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        read_labels(path, known or ONE, explainer)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --------------------------------------------------------------------------- what was written is read


@given(label_sets)
def test_jsonl_is_read_as_it_was_written(given_labels: dict[int, str]) -> None:
    found = read(jsonl(*({"feature": f, "label": text} for f, text in given_labels.items())))
    assert labels(found) == {f: clean(text) for f, text in given_labels.items()}
    assert found.form == "JSONL" and found.empty == 0


@given(text_sets)
def test_jsonl_with_unescaped_text_is_read_as_it_was_written(given_labels: dict[int, str]) -> None:
    rows = [
        json.dumps({"feature": f, "label": text + "\u2028\x85 end"}, ensure_ascii=False)
        for f, text in given_labels.items()
    ]
    assert labels(read("\r\n".join(rows))) == {f: clean(text + "   end") for f, text in given_labels.items()}


@given(text_sets, st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_csv_is_read_as_it_was_written(
    given_labels: dict[int, str], separator: str, end: str, marked: bool, quoted: bool
) -> None:
    assume(quoted or end == "\r\n" or not any("\r" in text for text in given_labels.values()))  # csv leaves them bare
    text = table(given_labels, separator, end, csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    found = read(text.encode("utf-8-sig" if marked else "utf-8"), "theirs.csv")
    assert labels(found) == {f: clean(text) for f, text in given_labels.items()}
    assert found.form == "CSV"


@given(text_sets)
@settings(max_examples=40)
def test_delphis_folder_is_read_as_it_was_written(given_labels: dict[int, str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        for f, text in given_labels.items():
            write(Path(name), f"layers.4_latent{f}.txt", json.dumps(text))
        found = read_labels(Path(name), ONE)
    failed = {"Explanation could not be parsed.", "No explanation found"}
    assert labels(found) == {f: clean(text) for f, text in given_labels.items() if clean(text) not in failed}


@given(label_sets, st.booleans())
def test_neuronpedias_export_is_read_as_a_list_and_as_packed_lines(given_labels: dict[int, str], listed: bool) -> None:
    rows = [neuronpedia(f, text) for f, text in given_labels.items()]
    found = read(json.dumps(rows) if listed else gzip.compress(jsonl(*rows).encode()), "batch-0.jsonl.gz")
    assert labels(found) == {f: clean(text) for f, text in given_labels.items()}
    assert found.form == "Neuronpedia"


def test_every_field_of_a_label_is_filled_in(tmp_path: Path) -> None:
    row = {
        "dictionary": "b",
        "index": "17",
        "explanation": " words about <b>tea</b>\n",
        "model": "gpt-x",
        "score": float("nan"),
    }
    found = read_labels(write(tmp_path, "theirs.v2.jsonl", jsonl(row)), TWO)
    (one,) = found.explanations
    assert (one.dictionary, one.feature, one.explainer, one.model) == ("b", 17, "imported:theirs.v2", "gpt-x")
    assert (one.text, one.program, one.abstained, one.reason) == (
        "words about <b>tea</b>",
        None,
        False,
        "exposure unknown",
    )


@pytest.mark.parametrize("key", ["label", "description", "explanation", "text", "Label"])
def test_a_label_may_stand_under_any_of_the_usual_names(key: str) -> None:
    assert labels(read(jsonl({"feature": 3, key: "tea"}))) == {3: "tea"}


def test_poles_are_read_by_their_names(tmp_path: Path) -> None:
    rows = [{"feature": "17+", "label": "hot"}, {"feature": "17-", "label": "cold"}, {"feature": 3, "label": "wet"}]
    found = read_labels(write(tmp_path, "t.jsonl", jsonl(*rows)), POLES)
    assert labels(found) == {17: "hot", 17 + N: "cold", 3: "wet"}


def test_another_tools_index_is_the_positive_pole(tmp_path: Path) -> None:
    assert labels(read_labels(write(tmp_path, "t.json", json.dumps([neuronpedia(17, "hot")])), POLES)) == {17: "hot"}
    message = refusal(write(tmp_path, "t.json", json.dumps([neuronpedia(N, "no such neuron")])), POLES)
    assert "entry 1: 100" in message and "neurons has 0+ to 99-" in message


def test_controls_become_spaces_and_words_stay(tmp_path: Path) -> None:
    bad = "ignore all rules\x1b[31m;\u202e DROP TABLE\x00 label\n<script>\ud800\u2028x\u200d"
    (one,) = read_labels(write(tmp_path, "t.jsonl", jsonl({"feature": 1, "label": bad})), ONE).explanations
    assert one.text == "ignore all rules [31m;  DROP TABLE  label <script>  x\u200d"
    one.text.encode()


def test_the_set_is_named_after_the_file_or_by_the_user(tmp_path: Path) -> None:
    row = jsonl({"feature": 1, "label": "tea"})
    path = write(tmp_path, "old labels.jsonl.gz", gzip.compress(row.encode()))
    assert read_labels(path, ONE).sets[0].explainer == "imported:old labels"
    assert read_labels(path, ONE, "lexical").sets[0].explainer == "imported:lexical"
    assert read_labels(path, ONE, "imported:mine").sets[0].explainer == "imported:mine"
    assert "1 to 200 characters" in refusal(path, explainer=" \n")


# --------------------------------------------------------------------------- several sets, several dictionaries


def test_each_method_and_model_of_an_export_is_a_set(tmp_path: Path) -> None:
    rows = [
        neuronpedia(1, "first"), neuronpedia(1, "of another model", model="m2"), neuronpedia(1, "of another method", "logits"),
        neuronpedia(1, "again"), neuronpedia(2, ""), neuronpedia(2, "after a hole"), neuronpedia(3, "by hand", None, None),
    ]  # fmt: skip
    found = read_labels(write(tmp_path, "np.jsonl", jsonl(*rows)), ONE)
    assert {(one.explainer, one.feature): one.text for one in found.explanations} == {
        ("imported:np:pairs/m1", 1): "first",
        ("imported:np:pairs/m2", 1): "of another model",
        ("imported:np:logits/m1", 1): "of another method",
        ("imported:np:pairs/m1", 2): "after a hole",
        ("imported:np:untyped", 3): "by hand",
    }
    assert (found.empty, found.repeated) == (1, 1)
    sizes = {one.explainer: (one.labels, one.missing) for one in found.sets}
    assert sizes["imported:np:pairs/m1"] == (2, 98) and sizes["imported:np:untyped"] == (1, 99)
    assert {one.model for one in found.explanations} == {"m1", "m2", None}
    assert "5 labels" in found.said and "source 6-res-jb taken for dictionary sae" in found.said


def test_a_folder_of_batches_is_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    inner = tmp_path / "6-res-jb" / "explanations"
    inner.mkdir(parents=True)
    for number, text in ((10, "late"), (2, "early")):
        write(inner, f"batch-{number}.jsonl.gz", gzip.compress(jsonl(neuronpedia(1, text)).encode()))
    for folder in (inner, inner.parent):
        found = read_labels(folder, ONE)
        assert labels(found) == {1: "early"} and found.repeated == 1
        assert found.sets[0].explainer == "imported:6-res-jb:pairs/m1"


def test_delphis_modules_find_their_dictionaries_by_hook(tmp_path: Path) -> None:
    folder = tmp_path / "night" / "explanations"
    folder.mkdir(parents=True)
    write(folder, "layer.4_latent7.txt", json.dumps("tea"))
    write(folder, ".layer.5.mlp_feature7.txt", "coffee, plain")
    write(folder, "layer.5.mlp_latent8.txt", json.dumps("Explanation could not be parsed."))
    write(folder, "layer.5.mlp_latent9.txt", "null")
    write(folder.parent, "run_config.json", json.dumps({"explainer_model": "big-model"}))
    found = read_labels(folder.parent, TWO)
    assert {(one.dictionary, one.feature): one.text for one in found.explanations} == {
        ("a", 7): "tea",
        ("b", 7): "coffee, plain",
    }
    assert {(one.explainer, one.model) for one in found.explanations} == {("imported:night", "big-model")}
    assert found.empty == 2 and found.form == "Delphi"
    assert "layer.4 is not one dictionary's name or hook among b" in refusal(folder, {"b": TWO["b"]})


@pytest.mark.parametrize(("module", "hook", "fits"), [
    ("layers.4", "model.layers.4", True), ("transformer.h.4", "h.4", True), ("layer_9--width_16k", "model.layers.4", True),
    ("layers.10.mlp", "model.layers.4.mlp", False), ("layers.14", "model.layers.4", False),
])  # fmt: skip
def test_the_labels_of_another_layer_are_refused(tmp_path: Path, module: str, hook: str, fits: bool) -> None:
    write(tmp_path, f"{module}_latent7.txt", "tea")
    known = {"sae": Extent(N, hook=hook)}
    if fits:
        assert read_labels(tmp_path, known).taken == ((module, "sae"),)
    else:
        assert f"source {module} is of another layer than sae, which is at {hook}" in refusal(tmp_path, known)


@pytest.mark.parametrize("text", ['"the" and "of"', "plain", "[EXPLANATION]: tea", "17", '"the", as in "the end'])
def test_delphis_labels_may_be_plain_text(tmp_path: Path, text: str) -> None:
    write(tmp_path, "layers.4_latent7.txt", text)
    assert labels(read_labels(tmp_path, ONE)) == {7: text}


def test_without_a_name_only_the_only_dictionary_can_be_meant(tmp_path: Path) -> None:
    path = write(tmp_path, "t.jsonl", jsonl({"feature": 1, "label": "tea"}))
    assert "line 1: names no dictionary, and this run has a, b; add --dictionary" in refusal(path, TWO)
    path = write(tmp_path, "t.jsonl", jsonl({"feature": 1, "label": "tea", "dictionary": "c"}))
    assert "line 1: dictionary c: to be scored are sae" in refusal(path)
    path = write(tmp_path, "t.jsonl", jsonl(neuronpedia(1, "tea")))
    assert "source 6-res-jb is not one dictionary's name or hook among a, b" in refusal(path, TWO)


def test_a_run_file_says_which_features_it_has() -> None:
    with Store(":memory:") as store:
        store.execute(
            "INSERT INTO dictionary (dictionary, n_features, signed, hook) VALUES ('a', 8, true, 'layer.1'), ('b', 4, NULL, 'layer.2')"
        )
        assert extents(store) == {"a": Extent(8, True, "layer.1"), "b": Extent(4, False, "layer.2")}
        assert extents(store, "b") == {"b": Extent(4, False, "layer.2")}


# --------------------------------------------------------------------------- what is refused, with its place


ROW = jsonl({"feature": 1, "label": "tea"})
WRONG_FILES: list[tuple[str, str | bytes, str]] = [
    ("empty", "", "empty"),
    ("spaces", " \n\n", "empty"),
    ("half", ROW + '{"feature": 2, "lab', "line 2: not a whole JSON object"),
    ("prose", ROW + "\nand so on\n", "line 3: not a whole JSON object"),
    ("over lines", '{\n"feature": 1,\n"label": "x"}', "line 1: not a whole JSON object"),
    ("half list", '[{"feature": 1,\n "label": "tea"},', "line 2: not a whole JSON list"),
    ("empty list", "[]", "holds no rows"),
    ("numbers", "[1, 2]", "entry 1: not an object"),
    ("deep", '{"a":' * 100_000, "line 1: not a whole JSON object (nested too deeply)"),
    ("twice named", '{"feature": 1, "feature": 2, "label": "x"}', "line 1: not a whole JSON object (the name feature twice"),
    ("two features", jsonl({"feature": 1, "index": 2, "label": "x"}), "line 1: has both feature and index"),
    ("two labels", jsonl({"feature": 1, "text": "y", "label": "x"}), "line 1: has both label and text"),
    ("no feature", jsonl({"latent": 1, "label": "x"}), "line 1: has no feature or index, only latent, label"),
    ("no label", ROW + jsonl({"feature": 2}), "line 2: has no label or description"),
    ("case", jsonl({"label": "y", "Label": "x", "feature": 1}), "line 1: names that differ in case alone"),
    ("label number", jsonl({"feature": 1, "label": 3}), "line 1: label is 3, not text"),
    ("label nan", jsonl({"feature": 1, "label": float("nan")}), "line 1: label is nan, not text"),
    ("label list", jsonl({"feature": 1, "label": ["x"]}), "line 1: label is ['x'], not text"),
    ("model number", jsonl({"feature": 1, "label": "x", "model": 3}), "line 1: model is 3, not text"),
    ("feature nan", jsonl({"feature": float("nan"), "label": "x"}), "line 1: feature nan is no index"),
    ("feature half", jsonl({"feature": 1.5, "label": "x"}), "line 1: feature 1.5 is no index"),
    ("feature true", jsonl({"feature": True, "label": "x"}), "line 1: feature True is no index"),
    ("feature null", jsonl({"feature": None, "label": "x"}), "line 1: feature None is no index"),
    ("feature negative", jsonl({"feature": -1, "label": "x"}), "line 1: feature -1 is no index"),
    ("feature words", jsonl({"feature": "one", "label": "x"}), "line 1: feature one is no index"),
    ("feature pole", jsonl({"feature": "17-", "label": "x"}), "line 1: feature 17-: this dictionary's features have no poles; write 17"),
    ("feature huge", jsonl({"feature": 10**400, "label": "x"}), "line 1: 1000000"),
    ("feature thousands of digits", '{"feature": 1' + "0" * 9999 + ', "label": "x"}', "line 1: not a whole JSON object"),
    ("long", ROW + jsonl({"feature": 2, "label": "x" * 100_000}), "line 2: a label of 100,000 characters; shorten it to 2,000"),
    ("twice", jsonl({"feature": 1, "label": "x"}, {"feature": 5, "label": "y"}, {"feature": "01", "label": "z"}), "line 1 and line 3: both label feature 1"),
    ("twice, once empty", jsonl({"feature": 1, "label": ""}, {"feature": 1, "label": "z"}), "line 1 and line 2: both label feature 1"),
    ("only holes", jsonl({"feature": 1, "label": ""}, {"feature": 2, "label": None}), "none of its 2 rows holds a label"),
    ("latin", ROW.encode() + '{"feature": 2, "label": "caf\u00e9"}'.encode("latin-1"), "line 2: not UTF-8"),
    ("wide", "feature,label\n1,tea\n".encode("utf-16"), "line 1: not UTF-8"),
    ("half packed", gzip.compress(ROW.encode() * 100)[:-12], "cut off in the middle"),
    ("badly packed", gzip.compress(ROW.encode() * 100)[:-8] + b"12345678", "damaged gzip"),
    ("packed nothing", gzip.compress(b""), "empty"),
    ("no header", "1,tea\n2,coffee\n", "line 1: neither JSON nor the header of a table"),
    ("header alone", "feature,label\n", "holds no rows"),
    ("header twice", "feature,label,label\n1,a,b\n", "line 1: a column's name twice"),
    ("short row", "feature,label,model\n1,tea,m\n2,cof", "line 3: 2 fields under 3 columns"),
    ("separator in a label", "feature,label\n1,tea, hot\n", "line 2: 3 fields under 2 columns"),
    ("open quote", 'feature,label\n1,"tea\nand so', "line 2: unexpected end of data"),
    ("lone quote", 'feature,label\n1,"tea" hot\n', "line 2:"),
    ("lone carriage return", "feature,label\n1,tea\r2,coffee\n", "line 2: new-line character seen in unquoted field; put"),
    ("huge field", "feature,label\n1," + "x" * 200_000, "line 2: field larger than field limit"),
    ("odd row of an export", jsonl(neuronpedia(1, "tea"), {"feature": 2, "label": "x"}), "line 2: has no index"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), [row[1:] for row in WRONG_FILES], ids=[row[0] for row in WRONG_FILES])
def test_a_wrong_file_is_refused_in_one_line_with_its_place(
    tmp_path: Path, content: str | bytes, expected: str
) -> None:
    path = write(tmp_path, "theirs.jsonl", content)
    message = refusal(path)
    assert message.startswith(f"{path}: ") and expected in message and len(message) < 500


def test_features_that_do_not_exist_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    rows = [{"feature": f, "label": "x"} for f in range(90, 110)]
    message = refusal(write(tmp_path, "t.jsonl", jsonl(*rows)))
    assert "10 of its 20 rows are about features that do not exist (line 11: 100; line 12: 101;" in message
    assert "line 15: 104; ...)" in message and "sae has 0 to 99" in message


def test_holes_are_counted_and_are_no_labels() -> None:
    rows = [
        {"feature": 1, "label": "tea"},
        {"feature": 2, "label": " "},
        {"feature": 3, "label": None},
        {"feature": 4, "label": "\u200b\x00"},
    ]
    found = read(jsonl(*rows))
    assert labels(found) == {1: "tea"} and found.empty == 3 and found.sets[0].missing == 99
    assert "3 rows without a label" in found.said and "99 of 100 features have none" in found.said


def wrong_folders() -> dict[str, tuple[Callable[[Path], object], str]]:
    return {
        "nothing there": (lambda p: None, "holds no labels"),
        "two kinds": (lambda p: (write(p, "l_latent1.txt", "x"), write(p, "batch-0.jsonl", "x")), "holds both"),
        "another text": (lambda p: (write(p, "l_latent1.txt", "x"), write(p, "readme.txt", "x")), "readme.txt: not named like"),
        "a cut string": (lambda p: write(p, "l_latent1.txt", '"tea and \\"cof'), "l_latent1.txt: cut off"),
        "scores": (lambda p: write(p, "l_latent1.txt", '[{"activating": true}]'), "not that of scores"),
        "a batch twice": (lambda p: (write(p, "batch-0.jsonl", "x"), write(p, "batch-0.jsonl.gz", "x")), "one batch twice"),
        "other batches": (lambda p: write(p, "batch-0.jsonl", ROW), "batch-0.jsonl: holds no explanations"),
        "a half batch": (
            lambda p: write(p, "batch-0.jsonl.gz", gzip.compress(b"x" * 99)[:-9]),
            "batch-0.jsonl.gz: cut off in the middle",
        ),
        "a latent twice": (
            lambda p: (write(p, "l_latent1.txt", "x"), write(p, "l_feature1.txt", "y")),
            "l_feature1.txt and l_latent1.txt: both label feature 1",
        ),
        "empty files": (lambda p: write(p, "l_latent1.txt", ""), "none of its 1 rows holds a label"),
    }  # fmt: skip


@pytest.mark.parametrize("case", wrong_folders())
def test_a_wrong_folder_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    make, expected = wrong_folders()[case]
    make(tmp_path)
    assert expected in refusal(tmp_path)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.jsonl")


@given(label_sets, st.data())
def test_a_file_of_lines_cut_anywhere_gives_whole_rows_or_an_error(
    given_labels: dict[int, str], data: st.DataObject
) -> None:
    lines = [json.dumps({"feature": f, "label": text}).encode() for f, text in given_labels.items()]
    whole = b"\n".join(lines)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    between = {b"\n".join(lines[:n]) + end: n for n in range(1, len(lines) + 1) for end in (b"", b"\n")}
    if cut in between:
        expected = [(f, clean(text)) for f, text in given_labels.items()][: between[cut]]
        assert list(labels(read(cut)).items()) == expected
    else:
        with pytest.raises(UsageError):
            read(cut)


@given(label_sets, st.data())
@settings(max_examples=60)
def test_a_list_or_a_packed_file_cut_anywhere_is_refused(given_labels: dict[int, str], data: st.DataObject) -> None:
    rows = [neuronpedia(f, text) for f, text in given_labels.items()]
    whole = data.draw(st.sampled_from([json.dumps(rows).encode(), gzip.compress(jsonl(*rows).encode())]))
    with pytest.raises(UsageError):
        read(whole[: data.draw(st.integers(0, len(whole) - 1))])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["3", "3+", "sae"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(
    ["feature", "index", "label", "text", "dictionary", "model", "modelId", "layer", "description", "typeName", "x"]
)


@given(st.lists(st.dictionaries(keys, anything, max_size=6) | anything, max_size=4), st.booleans())
@settings(max_examples=300)
def test_any_json_is_read_or_refused(rows: list[Any], listed: bool) -> None:
    try:
        found = read(json.dumps(rows) if listed else "".join(json.dumps(row) + "\n" for row in rows))
    except UsageError as error:
        assert "\n" not in str(error)
        return
    assert found.explanations and all(one.text and 0 <= one.feature < N for one in found.explanations)


@given(
    st.binary(max_size=60)
    | st.text(alphabet='feature,label\n\r"123;\t ', max_size=60).map(lambda t: ("feature,label\n" + t).encode())
)
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        found = read(content, "theirs.csv")
    except UsageError:
        return
    assert found.explanations
