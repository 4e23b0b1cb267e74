"""How near is a harvest to the physical limit, the forward pass and the encoder? One run, one table, ratios.

A random GPT-2 of 4 layers and width 256, random TopK dictionaries with 32 active features, and text of Python's own
documentation, cut into sentences and put together anew until there is enough of it: speed, memory and disk do not depend on
whether features mean anything. The bare loop runs the same batches through the same model and SAELens's own `encode`, and
keeps nothing.

    python benchmarks/harvest.py                 everything, about half an hour on two cores
    python benchmarks/harvest.py --quick         smaller corpora, for a look
    python benchmarks/harvest.py --device cuda   the same on a GPU
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, GPT2Config, GPT2Model

from glossator import pipeline
from glossator.config import CorpusConfig, HarvestConfig, Recipe, SubjectConfig, demo_model
from glossator.harness import workers as crew
from glossator.harness.corpus import read_corpus
from glossator.harness.harvest import Work, run_missing
from glossator.harness.subject import batches
from glossator.store.records import records
from glossator.store.store import Store

_PIECE = 24  # words that stay together


def write_model(folder: Path) -> Path:
    """A random GPT-2 with the tokenizer of the built-in subject."""
    tokenizer = AutoTokenizer.from_pretrained(demo_model())
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=256, n_layer=4, n_head=4, n_positions=256)
    torch.manual_seed(0)
    GPT2Model(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def write_dictionary(folder: Path, name: str, d_in: int, n_features: int) -> Path:
    from sae_lens import SAE
    from sae_lens.saes.topk_sae import TopKSAEConfig

    torch.manual_seed(n_features)
    sae = SAE.get_sae_class_for_architecture("topk")(TopKSAEConfig(d_in=d_in, d_sae=n_features, k=32, device="cpu"))
    with torch.no_grad():
        sae.W_enc.normal_(std=d_in**-0.5)
        sae.W_dec.copy_(sae.W_enc.T / sae.W_enc.norm(dim=0)[:, None])
    sae.save_model(folder / name)
    return folder / name


def write_corpus(folder: Path, tokens: int) -> Path:
    """Documents of some 2,000 tokens, made of pieces of real text in a random order."""
    words = [word for document in read_corpus(["python-docs"]) for text in document.passages for word in text.split()]
    pieces = [" ".join(words[i : i + _PIECE]) for i in range(0, len(words), _PIECE)]
    draw = np.random.default_rng(tokens)
    path = folder / f"text-{tokens}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(tokens // 2000 + 8):
            text = " ".join(pieces[i] for i in draw.integers(0, len(pieces), 50))
            file.write(json.dumps({"name": f"document {number}", "text": text}) + "\n")
    return path


class Bench:
    """Models, dictionaries and corpora in a temporary folder, each made once."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        self.model = write_model(folder)

    def recipe(
        self, tokens: int, features: Sequence[int], hooks: Sequence[str], threads: int | None = None, demo: bool = False
    ) -> Recipe:
        names = []
        for i, n in enumerate(features):
            path = self.folder / f"{'demo' if demo else 'random'}-{n}-{i}"
            names.append(
                str(path if path.exists() else write_dictionary(self.folder, path.name, 384 if demo else 256, n))
            )
        text = self.folder / f"text-{tokens}.jsonl"
        corpus = text if text.exists() else write_corpus(self.folder, tokens)
        what = SubjectConfig(
            model=str(demo_model() if demo else self.model),
            dictionaries=tuple(names),
            hooks=tuple(hooks),
            corpus=(str(corpus),),
        )
        config = HarvestConfig(device=self.device, threads=threads)
        return Recipe(subject=what, corpus=CorpusConfig(tokens=tokens), harvest=config)


def bare(work: Work, encode: Callable[[torch.Tensor], torch.Tensor], shards: int) -> float:
    """Tokens a second of the forward pass and SAELens's encoder over the first shards, nothing kept."""
    corpus, config = work.corpus, work.config
    chunk = min(config.encode_tokens, (1 << 26) // work.dictionaries[0].n_features)
    started = time.perf_counter()
    with torch.inference_mode():
        for begin, end in work.ranges[:shards]:
            sequences = [
                corpus.tokens[s : s + n]
                for s, n in zip(corpus.context_start[begin:end], corpus.context_length[begin:end], strict=True)
            ]
            for batch in batches(sequences, work.subject, batch_tokens=config.batch_tokens):
                for acts in work.subject.read(batch).values():
                    for part in torch.split(acts.flatten(0, 1), chunk):
                        encode(part)
    if config.device != "cpu":
        torch.cuda.synchronize()
    return work.tokens_in(0, min(shards, len(work.ranges))) / (time.perf_counter() - started)


def passed(work: Work, folder: Path) -> float:
    """Seconds of the whole pass, its parts written."""
    started = time.perf_counter()
    run_missing(work, folder, 0, len(work.ranges))
    return time.perf_counter() - started


def speed(bench: Bench, tokens: int, n_features: int) -> tuple[float, float]:
    """Tokens a second of the harvest, and of the bare loop at the same shapes: a shard of it before and one after."""
    from sae_lens import SAE

    recipe = bench.recipe(tokens, [n_features], ["h.3"])
    work = crew.set_up(recipe)
    sae = SAE.load_from_disk(recipe.subject.dictionaries[0], device=bench.device)
    with tempfile.TemporaryDirectory() as folder:
        before = bare(work, sae.encode, 1)
        seconds = passed(work, Path(folder))
        after = bare(work, sae.encode, 1)
    return work.n_tokens / seconds, (before + after) / 2


def several(bench: Bench, tokens: int, n_features: int, hooks: Sequence[str], demo: bool) -> tuple[float, float]:
    """Seconds of one pass over dictionaries at all hooks, and of a pass for each."""
    together = crew.set_up(bench.recipe(tokens, [n_features] * len(hooks), hooks, demo=demo))
    with tempfile.TemporaryDirectory() as folder:
        at_once = passed(together, Path(folder) / "all")
        alone = 0.0
        for i in range(len(hooks)):
            recipe = together.recipe and Recipe.model_validate_json(together.recipe)
            assert recipe
            what = recipe.subject.model_copy(
                update={"dictionaries": (recipe.subject.dictionaries[i],), "hooks": (hooks[i],)}
            )
            work = crew.set_up(recipe.model_copy(update={"subject": what}), together.corpus)
            alone += passed(work, Path(folder) / str(i))
    return at_once, alone


def workers(bench: Bench, tokens: int) -> tuple[float, float]:
    """Seconds of one process of one thread, and of two, each with its start and its loading."""
    recipe = bench.recipe(tokens, [4096], ["h.3"], threads=1)
    seconds = []
    for n in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            work = crew.set_up(recipe)
            started = time.perf_counter()
            crew.run_workers(work, recipe, Path(folder), n, lambda done, total: None)
            seconds.append(time.perf_counter() - started)
    return seconds[0], seconds[1]


# --------------------------------------------------------------------------- memory and disk, in processes of their own


def one_run(folder: Path, tokens: int, device: str) -> None:
    """A whole harvest into a run file: peak memory, disk, active tokens, time to read records. Prints JSON."""
    bench = Bench(folder, device)
    path = folder / "run.duckdb"
    most = [0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            most[0] = max(most[0], sum(_size(p) for p in folder.rglob("*") if p.name.startswith(("part-", "run."))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    recipe = bench.recipe(tokens, [4096], ["h.3"])
    started = time.perf_counter()
    pipeline.harvest(path, recipe)
    seconds = time.perf_counter() - started
    peak = peak_mib()
    stop.set()
    watcher.join()
    with Store(path) as store:
        ((name, read, active),) = store.sql(
            "SELECT h.dictionary, c.tokens, round(h.active_per_token * c.tokens) FROM harvest h, corpus c"
        )
        started = time.perf_counter()
        windows = sum(len(s.windows) for r in records(store, name, range(4096)) for s in r.exemplars.values())
        reading = (time.perf_counter() - started) / 4096
    print(json.dumps({
        "tokens": read, "active": active, "peak_mib": peak, "disk": most[0], "run_file": path.stat().st_size,
        "seconds": seconds, "record_ms": reading * 1000, "windows": windows / 4096,
    }))  # fmt: skip


def peak_mib() -> float:
    """Peak resident memory of this process. Not ru_maxrss: that starts from the peak of the process that started this one."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    if found is None:
        raise SystemExit("no VmHWM in /proc/self/status: run this on Linux")
    return int(found[1]) / 1024


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a part that was replaced meanwhile
        return 0


def in_process(tokens: int, device: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", str(tokens), "--folder", folder, "--device", device]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


# --------------------------------------------------------------------------- the table


def rows(bench: Bench, quick: bool) -> Iterator[tuple[str, str, str, str]]:
    """What, measured, target, detail."""
    some, many = (100_000, 800_000) if quick else (500_000, 4_000_000)
    for n_features, tokens, target in ((4096, 3 * some, 0.95), (32768, some * 2 // 5, 0.90)):
        mine, limit = speed(bench, tokens, n_features)
        detail = f"{mine:,.0f} tokens/s against {limit:,.0f}, {tokens:,} tokens"
        yield f"tokens/s over the bare loop, {n_features:,} features", f"{mine / limit:.2f}", f">= {target}", detail
    for name, hooks, n_features, demo in (
        ("MiniLM, layers 2 to 5, 2,048 features", [f"encoder.layer.{i}" for i in (2, 3, 4, 5)], 2048, True),
        ("4 layers of width 256, 4,096 features", [f"h.{i}" for i in range(4)], 4096, False),
    ):
        at_once, alone = several(bench, some // 5, n_features, hooks, demo)
        detail = f"{at_once:.1f} s against {alone:.1f} s"
        yield f"one pass over 4 dictionaries at 4 hooks: {name}", f"{at_once / alone:.2f}", "<= 0.5", detail
    if bench.device == "cpu":
        one, two = workers(bench, some)
        yield (
            "two workers of one thread against one",
            f"{one / two:.2f}x",
            ">= 1.7x",
            f"{two:.0f} s against {one:.0f} s",
        )
    yield from constant(bench.device, some, many)


def constant(device: str, some: int, many: int) -> Iterator[tuple[str, str, str, str]]:
    """What must not grow with the corpus."""
    small, large = in_process(some, device), in_process(many, device)
    growth = large["peak_mib"] / small["peak_mib"] - 1
    detail = f"{small['peak_mib']:.0f} MiB to {large['peak_mib']:.0f} MiB, loading and storing included"
    yield (
        f"growth of peak memory, {small['tokens']:,.0f} to {large['tokens']:,.0f} tokens",
        f"{growth:.1%}",
        "< 5%",
        detail,
    )
    for what, key in (("that stays", "run_file"), ("at most, with parts under way", "disk")):
        share, detail = large[key] / large["active"], f"{large[key] / 2**20:.0f} MiB for {large['active'] / 1e6:.0f}M"
        yield f"disk for each active token and feature, {what}", f"{share:.2f} bytes", "< 1 byte", detail
    detail = f"{large['windows']:.0f} exemplars each, 4,096 features"
    yield "a feature's record, read in bulk", f"{large['record_ms']:.2f} ms", "< 1 ms", detail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="smaller corpora")
    parser.add_argument("--memory", type=int, metavar="TOKENS", help="only memory and disk, up to so many tokens")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one_run(args.folder, args.one, args.device)
        return
    console = Console(width=170)
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    table = Table(
        "what",
        "measured",
        "target",
        "detail",
        title=f"Harvest: {device}, torch {torch.__version__}, {platform.platform()}",
    )
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), args.device)
        for row in constant(args.device, 500_000, args.memory) if args.memory else rows(bench, args.quick):
            console.print("  ".join(row))
            table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
