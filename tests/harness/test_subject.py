"""The hook catches what the module gives, special tokens never count, and a batch's shape alone decides its bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from glossator.errors import SubjectError
from glossator.harness.planted_subject import PlantedSubject
from glossator.harness.subject import HFSubject, TokenBatch, batches, bucket_widths
from tests.harness.small_models import WORDS, small_decoder, small_encoder, small_gpt2, small_llama

TEXTS = [
    "the dog ran off with a blue hat",
    "what did it see",
    " ".join(WORDS),
    "a mat",
    "the cat sat on the mat and then it ran to see the new dog",
]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_encoder(tmp_path_factory.mktemp("bert"))


def all_batches(subject: HFSubject | PlantedSubject, texts: list[str] = TEXTS) -> list[TokenBatch]:
    return list(batches(subject.tokenize(texts), subject, batch_tokens=512))


def hidden_state(path: Path, batch: TokenBatch, layer: int) -> Tensor:
    model = AutoModel.from_pretrained(path).eval()
    with torch.inference_mode():
        out = model(input_ids=batch.ids, attention_mask=batch.attention, output_hidden_states=True)
    return out.hidden_states[layer + 1]


def module_output(path: Path, batch: TokenBatch, name: str) -> Tensor:
    model = AutoModel.from_pretrained(path).eval()
    caught: list[Tensor] = []
    dict(model.named_modules())[name].register_forward_hook(lambda *args: caught.append(args[2]))
    with torch.inference_mode():
        model(input_ids=batch.ids, attention_mask=batch.attention)
    return caught[0]


# ------------------------------------------------------------------ what the hook catches


@pytest.mark.real
def test_minilm_gives_the_hidden_states_of_transformers(minilm: HFSubject, minilm_path: Path) -> None:
    for batch in all_batches(minilm):
        expected = hidden_state(minilm_path, batch, 4)
        assert torch.equal(minilm.activations(batch), expected)


@pytest.mark.real
def test_minilm_in_a_padded_batch_agrees_with_one_text_alone(minilm: HFSubject, minilm_path: Path) -> None:
    tokenizer, model = (
        AutoTokenizer.from_pretrained(minilm_path),
        AutoModel.from_pretrained(minilm_path).eval(),
    )
    seen = 0
    for batch in all_batches(minilm):
        acts = minilm.activations(batch)
        for row, member in enumerate(batch.row_context):
            if member < 0:
                continue
            alone = tokenizer(TEXTS[member], return_tensors="pt")
            with torch.inference_mode():
                states = model(**alone, output_hidden_states=True).hidden_states[5][0]
            assert torch.allclose(acts[row][batch.content[row]], states[1:-1], atol=1e-5)
            seen += 1
    assert seen == len(TEXTS)


def test_gpt2_is_hooked_at_an_mlp_by_the_path_of_the_model_with_its_head(gpt2: Path) -> None:
    subject = HFSubject(gpt2, "transformer.h.1.mlp", context_size=32)
    for batch in all_batches(subject):
        assert torch.equal(subject.activations(batch), module_output(gpt2, batch, "h.1.mlp"))
    assert subject.causal
    assert subject.d_hook == 16
    assert (subject.prefix, subject.suffix) == ((), ())


@pytest.mark.parametrize("hook", ["model.layers.1", "layers.1"])
def test_llama_is_hooked_at_a_layer_with_and_without_the_head_in_the_path(llama: Path, hook: str) -> None:
    subject = HFSubject(llama, hook, context_size=32)
    for batch in all_batches(subject):
        assert torch.equal(subject.activations(batch), hidden_state(llama, batch, 1))
    assert subject.causal
    assert subject.vocabulary.pieces[subject.prefix[0]] == "[CLS]"
    assert subject.suffix == ()


def test_the_forward_pass_ends_at_the_hook(bert: Path) -> None:
    subject = HFSubject(bert, "encoder.layer.0", context_size=32)
    later = {"layer 1": 0}
    dict(subject._model.named_modules())["encoder.layer.1"].register_forward_hook(
        lambda *_: later.__setitem__("layer 1", 1)
    )
    subject.activations(all_batches(subject)[0])
    assert later["layer 1"] == 0


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_encoders_are_not_causal_whatever_they_are_called(tmp_path: Path, kind: str) -> None:
    subject = HFSubject(small_encoder(tmp_path, kind), "encoder.layer.1", context_size=32)
    assert not subject.causal


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_causal_says_whether_later_tokens_matter(kind: str, gpt2: Path, bert: Path) -> None:
    subject = HFSubject(*{"gpt2": (gpt2, "h.2"), "bert": (bert, "encoder.layer.2")}[kind], context_size=32)
    first, second = subject.tokenize(["the cat sat", "the cat ran"])
    (batch,) = batches([first, second], subject, batch_tokens=512)
    acts = subject.activations(batch)
    at = len(subject.prefix)
    assert torch.equal(acts[0, at], acts[1, at]) == subject.causal


# ------------------------------------------------------------------ several hooks

GPT2_HOOKS = ["h.2", "h.0", "h.1.mlp.c_proj:in", "h.1:in", "wte", "h.1.attn", "h.0"]


def test_several_hooks_read_what_each_reads_alone(gpt2: Path) -> None:
    subject = HFSubject(gpt2, GPT2_HOOKS, context_size=32)
    assert subject.hooks == tuple(GPT2_HOOKS)
    assert (subject.hook, subject.d_hook) == ("h.2", 16)
    assert subject.widths == {"h.2": 16, "h.0": 16, "h.1.mlp.c_proj:in": 64, "h.1:in": 16, "wte": 16, "h.1.attn": 16}
    for hook in dict.fromkeys(GPT2_HOOKS):
        alone = HFSubject(gpt2, hook, context_size=32)
        for batch in all_batches(subject):
            read = subject.read(batch)
            assert list(read) == list(subject.widths)
            assert torch.equal(read[hook], alone.activations(batch)), hook
            assert torch.equal(subject.activations(batch), read["h.2"])


def test_the_input_of_a_block_is_the_output_of_the_one_before(bert: Path, llama: Path) -> None:
    for path, before, after in ((bert, "encoder.layer.0", "encoder.layer.1:in"), (llama, "layers.1", "layers.2:in")):
        subject = HFSubject(path, [before, after], context_size=32)
        read = subject.read(all_batches(subject)[0])
        assert torch.equal(read[before], read[after])


def test_an_input_that_comes_by_keyword_is_read(llama: Path) -> None:
    subject = HFSubject(llama, ["layers.1.self_attn:in", "layers.1.input_layernorm"], context_size=32)
    given, normed = subject.read(all_batches(subject)[0]).values()
    assert torch.equal(given, normed)


@pytest.mark.parametrize("hooks", [["encoder.layer.1", "encoder.layer.0"], ["encoder.layer.0", "encoder.layer.1"]])
def test_the_forward_pass_ends_at_the_last_hook(bert: Path, hooks: list[str]) -> None:
    subject = HFSubject(bert, hooks, context_size=32)
    later: list[str] = []
    for name in ("encoder.layer.1", "encoder.layer.2"):
        subject._model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: later.append(name))
    subject.read(all_batches(subject)[0])
    assert later == ["encoder.layer.1"]


def test_what_a_later_module_overwrites_is_copied_and_nothing_else(gpt2: Path) -> None:
    hooks = ["h.0", "h.0.mlp", "h.1", "h.2"]
    plain = HFSubject(gpt2, hooks, context_size=32)
    assert plain._overwritten == set()
    batch = all_batches(plain)[0]
    subject = HFSubject(gpt2, (), context_size=32)
    block = subject._model.get_submodule("h.1")
    honest = block.forward

    def in_place(hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        given = hidden_states.clone()
        hidden_states.zero_()
        return honest(given, *args, **kwargs)

    block.forward = in_place
    subject.watch(hooks)
    assert subject._overwritten == {"h.0"}
    expected = plain.read(batch)
    assert all(torch.equal(value, expected[hook]) for hook, value in subject.read(batch).items())


def test_hooks_may_come_later_and_replace_each_other(gpt2: Path) -> None:
    subject = HFSubject(gpt2, (), context_size=32)
    assert (subject.hooks, subject.hook, subject.widths, subject.d_hook) == ((), "", {}, 0)
    for call in (lambda: subject.read(all_batches(subject)[0]), subject.unembedding):
        with pytest.raises(SubjectError, match=f"{gpt2.name}: no hook is watched"):
            call()
    with pytest.raises(SubjectError, match="no hook to watch"):
        subject.watch([])
    for hooks in (["h.1", "h.2"], ["blocks.1.hook_mlp_out"]):
        subject.watch(hooks)
        fresh = HFSubject(gpt2, hooks, context_size=32)
        batch = all_batches(subject)[0]
        assert list(subject.read(batch)) == list(fresh.hooks)
        assert all(torch.equal(value, fresh.read(batch)[hook]) for hook, value in subject.read(batch).items())
        assert subject.identity() == fresh.identity()
        assert subject.causal


def test_an_encoder_is_not_causal_because_its_first_hook_comes_before_attention(bert: Path) -> None:
    assert not HFSubject(bert, ["encoder.layer.0:in", "encoder.layer.1"], context_size=32).causal


# ------------------------------------------------------------------ what directions write

LAYER_NORMS = ("gpt2", "gpt_neox")
HEADS = [("gpt2", True), ("llama", False), ("llama", True), ("gemma2", True), ("gpt_neox", False), ("gpt2", False)]


@pytest.mark.parametrize(("kind", "tied"), HEADS)
def test_the_unembedding_is_the_head_after_the_final_norm(kind: str, tied: bool, tmp_path: Path) -> None:
    path = small_decoder(tmp_path, kind, tie_word_embeddings=tied)
    subject = HFSubject(path, "blocks.1.hook_resid_post", context_size=32)
    unembedding = subject.unembedding()
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    norm = model.get_submodule(
        {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}.get(kind, "model.norm")
    )
    head = model.get_output_embeddings().weight
    assert torch.equal(head, model.get_input_embeddings().weight) == tied
    assert unembedding is not None and unembedding.shape == head.shape and unembedding.dtype == torch.float32
    with torch.no_grad():
        directions = torch.randn(5, 16)
        if kind in LAYER_NORMS:
            by_hand = ((directions - directions.mean(1, keepdim=True)) * norm.weight) @ head.T
        else:
            by_hand = (directions * (norm.weight + (kind == "gemma2"))) @ head.T
        assert torch.allclose(directions @ unembedding.T, by_hand, atol=1e-4)
        # and the logits of a residual stream are this over the norm's scale, but for the norm's bias
        stream = torch.randn(7, 16)
        scale = stream.std(1, correction=0) if kind in LAYER_NORMS else stream.square().mean(1).sqrt()
        bias = getattr(norm, "bias", None)
        logits = model.get_output_embeddings()(norm(stream)) - (0 if bias is None else head @ bias)
        assert torch.allclose(stream @ unembedding.T / scale[:, None], logits, atol=1e-3)


def test_there_is_no_unembedding_without_a_head(llama: Path, bert: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(llama).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(llama).save_pretrained(tmp_path)
    assert HFSubject(tmp_path, "layers.1", context_size=32).unembedding() is None
    for hook in ("encoder.layer.1", "encoder.layer.0:in"):
        assert HFSubject(bert, hook, context_size=32).unembedding() is None


@pytest.mark.parametrize(("kind", "hook"), [("gpt2", "h.1.mlp.c_proj"), ("llama", "layers.1.mlp.down_proj")])
def test_output_weights_are_what_each_coordinate_writes(kind: str, hook: str, tmp_path: Path) -> None:
    subject = HFSubject(small_decoder(tmp_path, kind), [f"{hook}:in", hook], context_size=32)
    given, written = subject.read(all_batches(subject)[0]).values()
    weights = subject.output_weights(f"{hook}:in")
    assert weights is not None and weights.shape == (32, 16)
    bias = subject._model.get_submodule(hook).bias
    assert torch.allclose(given @ weights + (0 if bias is None else bias), written, atol=1e-4)
    assert torch.equal(weights, subject.output_weights("blocks.1.mlp.hook_post"))
    assert subject.output_weights(hook) is None
    assert subject.output_weights("blocks.1.hook_resid_pre") is None
    with pytest.raises(SubjectError, match="no such module"):
        subject.output_weights("h.99:in")


# ------------------------------------------------------------------ errors


@pytest.mark.real
@pytest.mark.parametrize("hook", ["encoder.layers.4", "encoder.layer.44", "layer.4"])
def test_a_wrong_hook_names_the_nearest_modules(minilm_path: Path, hook: str) -> None:
    with pytest.raises(SubjectError, match=rf"hook '{hook}': no such module.*nearest: .*layer\.4"):
        HFSubject(minilm_path, hook)


def test_a_hook_that_gives_no_sequence_of_vectors_is_refused(bert: Path) -> None:
    with pytest.raises(SubjectError, match=r"hook 'pooler'.*hook a layer"):
        HFSubject(bert, "pooler", context_size=32)


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        (["encoder.layer.1", "encoder.layer"], r"hook 'encoder\.layer': the forward pass never reached"),
        (["pooler", "encoder.layer.1"], r"hook 'pooler': gives \(32, 16\), not \[rows"),
        (["encoder.layer.0", "encoder"], r"hook 'encoder': the module returns BaseModelOutput\w*, not a tensor"),
        (["embeddings.position_embeddings"], r"gives \(1, 16, 16\), not \[rows, tokens, width\]"),
        (["embeddings:in"], r"hook 'embeddings:in': the module takes NoneType, not a tensor; hook a layer"),
        (["embeddings.word_embeddings:in"], r"gives \(32, 16\), not"),
    ],
)
def test_one_wrong_hook_among_several_is_named(bert: Path, hooks: list[str], message: str) -> None:
    with pytest.raises(SubjectError, match=message):
        HFSubject(bert, hooks, context_size=32)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"gone: cannot be loaded"):
        HFSubject(tmp_path / "gone", "encoder.layer.1")


def test_a_text_that_does_not_fit_the_context_is_refused() -> None:
    subject = PlantedSubject(context_size=32)
    with pytest.raises(SubjectError, match="33 tokens does not fit the context of 32"):
        list(batches([[4] * 31], subject, batch_tokens=512))


# ------------------------------------------------------------------ batches


@pytest.mark.real
def test_content_is_the_text_without_special_tokens_and_padding(minilm: HFSubject) -> None:
    texts = ["the [SEP] dog", "a [PAD] [CLS] \U0001f9a9 b", ""]
    (batch,) = batches(minilm.tokenize(texts), minilm, batch_tokens=512)
    names = minilm.vocabulary.pieces
    read = [[names[i] for i in batch.ids[row][batch.content[row]]] for row in range(3)]
    assert read == [["the", "dog"], ["a", "b"], []]
    assert batch.content.sum() == 4  # and nothing in the rows that only fill the shape
    assert [names[i] for i in batch.ids[0][batch.attention[0].bool()]] == [
        "[CLS]",
        "the",
        "[SEP]",
        "dog",
        "[SEP]",
    ]


def test_batches_have_one_shape_a_width_and_hold_every_sequence_once() -> None:
    subject = PlantedSubject(context_size=100)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(4, 60, size=n).tolist() for n in rng.integers(1, 99, size=200)]
    rows_of: dict[int, set[int]] = {}
    found: dict[int, list[int]] = {}
    for batch in batches(sequences, subject, batch_tokens=512):
        rows, width = batch.ids.shape
        rows_of.setdefault(width, set()).add(rows)
        for row, member in enumerate(batch.row_context.tolist()):
            if member < 0:
                assert not batch.content[row].any()
                continue
            assert member not in found
            found[member] = batch.ids[row][batch.content[row]].tolist()
            assert width == min(w for w in bucket_widths(100) if w >= len(sequences[member]) + 2)
            assert batch.attention[row].sum() == len(sequences[member]) + 2
    assert [found[i] for i in range(200)] == sequences
    assert {width: {512 // width} for width in rows_of} == rows_of
    assert set(rows_of) == set(bucket_widths(100))


@pytest.mark.real
def test_shuffled_rows_and_other_neighbours_give_the_same_bytes(minilm: HFSubject) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(2000, 20000, size=n).tolist() for n in rng.integers(20, 30, size=16)]

    def by_sequence(order: list[int]) -> dict[int, Tensor]:
        found = {}
        for batch in batches([sequences[i] for i in order], minilm, batch_tokens=512):
            acts = minilm.activations(batch)
            for row, member in enumerate(batch.row_context):
                if member >= 0:
                    found[order[member]] = acts[row][batch.content[row]]
        return found

    whole = by_sequence(list(range(16)))
    shuffled = by_sequence(rng.permutation(16).tolist())
    few = by_sequence([11, 3])  # the rest of the shape is filled with rows of nothing
    assert all(torch.equal(whole[i], shuffled[i]) for i in range(16))
    assert all(torch.equal(whole[i], few[i]) for i in (3, 11))


# ------------------------------------------------------------------ vocabulary and identity


def test_byte_level_pieces_know_where_words_begin(gpt2: Path) -> None:
    subject = HFSubject(gpt2, "h.1", context_size=32)
    text = "the cat sat on a mat and then it ran"
    (ids,) = subject.tokenize([text])
    assert subject.vocabulary.join(ids) == text
    assert not subject.vocabulary.starts_word[ids[0]]  # no space before it, as GPT-2 has it
    spaced = subject.tokenize([" the"])[0][0]
    assert subject.vocabulary.find("the") == spaced
    assert subject.vocabulary.name(spaced) == "the"


@pytest.mark.real
def test_wordpiece_pieces_know_where_words_begin(minilm: HFSubject) -> None:
    (ids,) = minilm.tokenize(["untokenizable words"])
    names = [minilm.vocabulary.name(i) for i in ids]
    assert names == ["unto", "##ken", "##iza", "##ble", "words"]
    assert [minilm.vocabulary.find(n) for n in names] == ids
    assert minilm.vocabulary.join([101, *ids, 102, -1]) == "untokenizable words"


def test_one_wordpiece_that_looks_like_byte_level_does_not_decide_for_all(tmp_path: Path) -> None:
    path = small_encoder(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["Ġan", "##ting", "##ed"])
    tokenizer.save_pretrained(path)
    subject = HFSubject(path, "encoder.layer.1", context_size=32)
    assert subject.vocabulary.find("cat") is not None
    assert subject.vocabulary.find("##ting") is not None


def test_identity_changes_with_weights_hook_and_context(bert: Path, tmp_path: Path) -> None:
    base = HFSubject(bert, "encoder.layer.1", context_size=32)
    identities = [base.identity(), HFSubject(bert, "encoder.layer.0", context_size=32).identity()]
    identities.append(HFSubject(bert, "encoder.layer.1", context_size=48).identity())
    model = AutoModel.from_pretrained(bert)
    with torch.no_grad():
        model.encoder.layer[0].output.dense.bias[3] += 1e-3
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    changed = HFSubject(tmp_path, "encoder.layer.1", context_size=32).identity()
    assert changed["weights"] != base.identity()["weights"]
    assert identities[0] == HFSubject(bert, "encoder.layer.1", context_size=32).identity()
    identities.append(HFSubject(bert, ["encoder.layer.1", "encoder.layer.0"], context_size=32).identity())
    assert len({str(i) for i in identities}) == 4
    assert identities[-1]["hook"] == base.identity()["hook"] == "encoder.layer.1"
    assert identities[-1]["hooks"] == ["encoder.layer.1", "encoder.layer.0"]


@pytest.mark.real
def test_embeddings_have_a_row_for_every_token(minilm: HFSubject) -> None:
    assert minilm.embeddings().shape == (len(minilm.vocabulary), 384)


# ------------------------------------------------------------------ the double


def test_the_planted_subject_has_a_second_hook_that_is_reversed() -> None:
    one, both = PlantedSubject(), PlantedSubject(hooks=("planted:reversed", "planted"))
    (batch,) = all_batches(one, ["the cat sat on the mat"])
    read = both.read(batch)
    assert list(read) == list(both.hooks) == list(both.widths)
    assert both.hook == "planted:reversed" and both.d_hook == both.widths["planted"] == one.d_hook
    assert torch.equal(read["planted"], one.activations(batch))
    assert torch.equal(both.activations(batch), one.activations(batch).flip(-1))
    assert both.identity() != one.identity()
    assert one.unembedding() is None and one.output_weights("planted") is None
    for hooks in (("elsewhere",), ()):
        with pytest.raises(SubjectError, match="the planted subject has planted and planted:reversed"):
            PlantedSubject(hooks=hooks)
