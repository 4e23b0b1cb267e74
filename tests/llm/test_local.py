"""A local model: equal questions get equal replies, company in a batch changes nothing, and what cannot work says so in one line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from pydantic import BaseModel
from transformers import AutoModel

from glossator.config import LLMConfig
from glossator.errors import CutOffError, ProviderError, RejectedError, UnparsableError
from glossator.llm.base import RawReply, call_id
from glossator.llm.local import LocalModel
from glossator.llm.opening import open_llm
from glossator.llm.spec import parse_spec
from glossator.store.replies import Replies
from glossator.store.store import Store
from glossator.types import Message, Reply, Request
from tests.harness.small_models import small_encoder
from tests.llm.tiny_chat import NO_SYSTEM, TEMPLATE, tiny_chat

T = TypeVar("T")


class Legs(BaseModel):
    legs: int


def question(text: str = "How many legs has a cat?", **more: Any) -> Request:
    messages = (Message("system", "Be brief."), Message("user", text))
    return Request("test", messages, Legs, **{"max_tokens": 24, **more})


def loaded(path: Path | str, effort: str | None = None) -> LocalModel:
    return LocalModel(parse_spec(f"local:{path}"), LLMConfig(effort=effort))


def with_model(model: LocalModel, use: Callable[[LocalModel], Awaitable[T]]) -> T:
    async def run() -> T:
        try:
            return await use(model)
        finally:
            await model.close()

    return asyncio.run(run())


def ask(model: LocalModel, requests: Sequence[Request]) -> list[RawReply]:
    """All at once."""

    async def together(model: LocalModel) -> list[RawReply]:
        return await asyncio.gather(*(model.ask(request) for request in requests))

    return with_model(model, together)


def forwards(model: LocalModel) -> list[int]:
    """The lengths of the forward passes that it makes from now on."""
    made: list[int] = []
    model._model.register_forward_hook(lambda *_: made.append(1))
    return made


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat(tmp_path_factory.mktemp(request.param), kind=request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat(tmp_path_factory.mktemp("llama"))


# --------------------------------------------------------------------------- replies


def test_questions_that_come_together_get_what_each_would_get_alone(folder: Path) -> None:
    requests = [question("so " * n, max_tokens=10 + 7 * n, logprobs=n % 3) for n in range(1, 7)]
    model = loaded(folder)
    together = ask(model, requests)
    assert model.most_together == len(requests)
    for request, reply in zip(requests, together, strict=True):
        [alone] = ask(loaded(folder), [request])
        assert (reply.text, reply.finish, reply.usage) == (alone.text, alone.finish, alone.usage)
        for here, there in zip(reply.logprobs or [], alone.logprobs or [], strict=True):
            assert [token for token, _ in here] == [token for token, _ in there]
            assert [value for _, value in here] == pytest.approx([value for _, value in there], abs=1e-3)
    assert len({reply.text for reply in together}) > 3, "the model says the same whatever it is asked"


def test_usage_counts_the_tokens_of_the_prompt_and_of_the_reply(llama: Path) -> None:
    short, long = ask(loaded(llama), [question("a"), question("a" * 101, max_tokens=9)])
    assert short.usage and long.usage
    assert long.usage.input - short.usage.input == 100  # one token a letter
    assert (short.usage.output, short.finish) == (24, "length")
    assert (long.usage.output, long.finish) == (9, "length")


def test_a_reply_ends_where_the_model_ends_it(llama: Path) -> None:
    replies = ask(loaded(llama), [question(temperature=1.0, sample=n, max_tokens=300) for n in range(16)])
    finished = [reply for reply in replies if reply.finish == "stop"]
    cut = [reply for reply in replies if reply.finish == "length"]
    assert finished and len(finished) + len(cut) == 16
    assert all(reply.usage and reply.usage.output <= 300 and "<|im_end|>" not in reply.text for reply in finished)
    assert all(reply.usage and reply.usage.output == 300 for reply in cut)


def test_the_reply_to_a_drawn_question_depends_on_the_question_alone(llama: Path) -> None:
    drawn = [question(temperature=1.0, sample=n) for n in (0, 0, 1)]
    first, same, other = ask(loaded(llama), drawn)
    assert first.text == same.text != other.text
    [again] = ask(loaded(llama), drawn[:1])
    assert again.text == first.text


def test_temperature_zero_and_none_take_the_likeliest(llama: Path) -> None:
    none, zero, other = ask(loaded(llama), [question(), question(temperature=0.0), question(sample=1)])
    assert none.text == zero.text == other.text


def test_logprobs_are_those_of_the_likeliest_tokens_at_each_place(llama: Path) -> None:
    asked, plain = ask(loaded(llama), [question(logprobs=4), question()])
    assert plain.logprobs is None and asked.text == plain.text
    assert asked.logprobs is not None and len(asked.logprobs) == 24
    for place in asked.logprobs:
        values = [value for _, value in place]
        assert len(place) == 4 and values == sorted(values, reverse=True) and max(values) < 0
    bytes_written = "".join(place[0][0] for place in asked.logprobs)
    assert set(bytes_written) & set(asked.text)
    [everything] = ask(loaded(llama), [question(logprobs=20, max_tokens=1)])
    assert everything.logprobs and sum(2.718281828**value for _, value in everything.logprobs[0]) < 1.0001


# --------------------------------------------------------------------------- prompts


def test_the_form_of_the_reply_is_in_the_prompt(llama: Path) -> None:
    class More(BaseModel):
        legs: int
        x: int

    [few] = ask(loaded(llama), [question()])
    [more] = ask(loaded(llama), [Request("test", question().messages, More, 24)])
    assert few.usage and more.usage
    assert more.usage.input - few.usage.input == len(json.dumps(More.model_json_schema())) - len(
        json.dumps(Legs.model_json_schema())
    )


def test_a_text_cannot_end_its_own_message(llama: Path) -> None:
    """A mark of the chat format in the corpus is letters, not a mark."""
    plain, marked = ask(loaded(llama), [question("a"), question("a<|im_end|>")])
    assert plain.usage and marked.usage
    assert marked.usage.input - plain.usage.input == len("< |im_end|>")


def test_without_a_chat_template_the_roles_are_written_out(tmp_path: Path) -> None:
    model = loaded(tiny_chat(tmp_path, template=None))
    text, framed = model._written(question("Well?").messages)
    assert text == "System: Be brief.\nUser: Well?\nAssistant:" and not framed
    [reply] = ask(model, [question()])
    assert reply.usage and reply.usage.output == 24


def test_a_template_that_knows_no_system_message_gets_it_from_the_user(tmp_path: Path) -> None:
    model = loaded(tiny_chat(tmp_path, template=NO_SYSTEM + TEMPLATE))
    text, framed = model._written(question("Well?").messages)
    assert text == "<|im_start|>user\nBe brief.\n\nWell?<|im_end|>\n<|im_start|>assistant\n" and framed


def test_effort_reaches_templates_that_take_it(tmp_path: Path) -> None:
    path = tiny_chat(tmp_path, template="{% if enable_thinking is false %}no thoughts{% endif %}{{ reasoning_effort }}")
    assert loaded(path, "none")._written(question().messages)[0] == "no thoughts"
    assert loaded(path, "high")._written(question().messages)[0] == "high"


def test_what_a_model_thinks_is_counted_and_is_no_part_of_the_reply(llama: Path) -> None:
    model = loaded(llama)
    thought = model._tokenizer('hm {"legs": 3}?</think>{"legs": 4}').input_ids

    async def read(model: LocalModel) -> RawReply:
        from glossator.llm.local import _Asked

        asked = _Asked(question(max_tokens=100), asyncio.get_running_loop().create_future(), [5], 100)
        return model._read(asked, [*thought, 2, 0, 0], [])

    reply = with_model(model, read)
    assert reply.text == '{"legs": 4}' and reply.finish == "stop"
    assert reply.usage and reply.usage.output == len(thought) + 1


# --------------------------------------------------------------------------- bounds


def test_a_prompt_longer_than_the_context_ends_that_question_alone(tmp_path: Path) -> None:
    model = loaded(tiny_chat(tmp_path, kind="gpt2", context=512))

    async def both(model: LocalModel) -> list[RawReply | BaseException]:
        asked = (model.ask(question("a" * 600)), model.ask(question("a")))
        return await asyncio.gather(*asked, return_exceptions=True)

    long, short = with_model(model, both)
    assert isinstance(long, RejectedError) and "the model reads 512" in str(long)
    assert isinstance(short, RawReply)


def test_a_reply_has_what_room_the_prompt_leaves_it_in_any_company(tmp_path: Path) -> None:
    """Learned positions end with the context: a short prompt with a long reply must not push a long prompt beyond it."""
    model = loaded(tiny_chat(tmp_path, kind="gpt2", context=512))
    frame = 512 - 24 - len(model._tokenizer(model._written(question("").messages)[0]).input_ids)
    form = len(model._tokenizer(question_form()).input_ids)
    long, short = ask(model, [question("a" * (frame - form + 14)), question("a", max_tokens=200)])
    assert long.usage and (long.usage.input, long.usage.output, long.finish) == (502, 10, "length")
    assert short.usage and short.usage.output == 200


def question_form() -> str:
    from glossator.llm.openai_chat import in_words

    return in_words(question())


def test_batches_are_bounded_by_tokens(llama: Path) -> None:
    model = loaded(llama)
    replies = ask(model, [question("a" * 1500, max_tokens=2, sample=n) for n in range(40)])
    assert len(replies) == 40
    assert 1 < model.most_together < 40


def test_a_batch_that_does_not_fit_into_memory_is_halved(llama: Path) -> None:
    class Cramped(LocalModel):
        def _generate(self, batch: list[Any]) -> list[RawReply]:
            if len(batch) > 2:
                raise torch.OutOfMemoryError
            return super()._generate(batch)

    cramped = Cramped(parse_spec(f"local:{llama}"), LLMConfig())
    requests = [question("so " * n) for n in range(5)]
    assert [r.text for r in ask(cramped, requests)] == [r.text for r in ask(loaded(llama), requests)]
    assert cramped.most_together == 2


def test_questions_that_come_while_others_are_answered_wait_and_go_together(llama: Path) -> None:
    model = loaded(llama)
    made = forwards(model)

    async def in_turn(model: LocalModel) -> None:
        first = asyncio.create_task(model.ask(question(max_tokens=60)))
        while not made:
            await asyncio.sleep(0.001)
        await asyncio.gather(*(model.ask(question("so", sample=n)) for n in range(3)))
        await first

    with_model(model, in_turn)
    assert model.most_together == 3


def test_what_nobody_waits_for_any_more_is_not_written(llama: Path) -> None:
    model = loaded(llama)
    made = forwards(model)

    async def give_up(model: LocalModel) -> RawReply:
        tasks = [asyncio.create_task(model.ask(question(max_tokens=1500))) for _ in range(2)]
        while not made:
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        return await model.ask(question("a"))

    assert with_model(model, give_up).finish == "length"
    assert len(made) < 1000


def test_what_is_cut_short_by_closing_is_no_reply(llama: Path) -> None:
    model = loaded(llama)
    made = forwards(model)

    async def close(model: LocalModel) -> list[RawReply | BaseException]:
        tasks = [asyncio.create_task(model.ask(question("so " * n, max_tokens=1500))) for n in range(3)]
        while not made:
            await asyncio.sleep(0.001)
        late = asyncio.create_task(model.ask(question("late")))
        await asyncio.sleep(0)
        await model.close()
        return await asyncio.gather(*tasks, late, return_exceptions=True)

    assert all(isinstance(end, ProviderError) for end in with_model(model, close))
    assert len(made) < 1000


# --------------------------------------------------------------------------- through the client


def test_a_model_that_writes_no_json_ends_as_unparsable_after_exactly_two_questions(llama: Path) -> None:
    with Store(":memory:") as store:

        async def run() -> None:
            async with open_llm(f"local:{llama}", Replies(store, 0.0), LLMConfig()) as client:
                # of these, one whose two replies both end by themselves
                for sample in range(40):
                    request = question(temperature=1.0, sample=sample, max_tokens=400)
                    before = store.sql("SELECT count(*) FROM llm_call")[0][0]
                    with pytest.raises((UnparsableError, CutOffError)) as end:
                        await client.complete(request)
                    after = store.sql("SELECT count(*) FROM llm_call")[0][0]
                    assert after - before == 2
                    if end.type is UnparsableError:
                        return
            raise AssertionError("every reply was cut off")

        asyncio.run(run())
        rows = store.sql("SELECT provider, usd, error, finish, input_tokens > 0 AND output_tokens > 0 FROM llm_call")
    assert all(row[0] == "local" and row[1] == 0.0 and row[2] is None and row[4] for row in rows)
    assert rows[-1][3] == "stop"


def test_a_model_that_answers_is_read(tmp_path: Path) -> None:
    path = tiny_chat(tmp_path, says='{"legs": 4}')
    with Store(":memory:") as store:

        async def run() -> list[Reply]:
            async with open_llm(f"local:{path}", Replies(store, 0.0), LLMConfig()) as client:
                return await asyncio.gather(*(client.complete(question("so " * n)) for n in range(3)))

        replies = asyncio.run(run())
        assert store.sql("SELECT DISTINCT finish, output_tokens, error FROM llm_call") == [("stop", 3, None)]
    assert [reply.value for reply in replies] == [Legs(legs=4)] * 3


def test_a_logged_reply_is_not_written_again(llama: Path) -> None:
    request = question(max_tokens=12)
    with Store(":memory:") as store:
        log = Replies(store, 0.0)

        async def run() -> int:
            async with open_llm(f"local:{llama}", log, LLMConfig()) as client:
                for _ in range(2):
                    with pytest.raises(CutOffError):
                        await client.complete(request)
                assert await log.get(call_id(client.transport.address, request))
            return int(store.sql("SELECT count(*) FROM llm_call")[0][0])

        assert asyncio.run(run()) == 2


# --------------------------------------------------------------------------- what is no model


def refusal(path: Path | str) -> str:
    with pytest.raises(ProviderError) as error:
        loaded(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_path_where_nothing_is(tmp_path: Path) -> None:
    assert "no model there; name a folder" in refusal(tmp_path / "nothing")
    assert "no model there" in refusal("no-such-owner/no-such-model")
    assert "cannot be loaded" in refusal(tmp_path) and "config.json" in refusal(tmp_path)


def test_a_model_that_writes_no_text(tmp_path: Path) -> None:
    assert "no causal language model" in refusal(small_encoder(tmp_path))


def test_a_causal_model_that_was_saved_without_its_head(llama: Path, tmp_path: Path) -> None:
    loaded(llama)._tokenizer.save_pretrained(tmp_path)
    AutoModel.from_pretrained(llama).save_pretrained(tmp_path)
    assert "LlamaModel is no causal language model" in refusal(tmp_path)
    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    assert "the weights are not all there (lm_head.weight)" in refusal(tmp_path)


def test_a_kind_of_model_that_cannot_be_causal(llama: Path, tmp_path: Path) -> None:
    loaded(llama)._tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}')
    assert "cannot be loaded as a causal language model" in refusal(tmp_path)


def test_a_folder_without_a_tokenizer(llama: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((llama / name).read_bytes())
    assert "tokenizer" in refusal(tmp_path)


def test_weights_that_are_cut_off(llama: Path, tmp_path: Path) -> None:
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "cannot be loaded" in refusal(tmp_path)
