"""Commands that exchange labels with other tools: export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glossator.arguments import parse_features
from glossator.commands.common import RunFile, Which, app, err, example, looked_at, out, written

Chosen = Annotated[str | None, typer.Option(help="Features such as 17, 0-999 or 3,5,8-12; all if not given.")]


@app.command(epilog=example("export run.duckdb --format neuronpedia --out for_neuronpedia"))
def export(
    path: RunFile,
    to: Annotated[
        Path,
        typer.Option("--out", help="A new folder for neuronpedia and parquet, a file (.jsonl, .jsonl.gz) for jsonl."),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="neuronpedia: its features, activations and explanations files; jsonl: a line a feature, with scores; parquet: a file a view.",
        ),
    ] = "jsonl",
    features: Chosen = None,
    dictionary: Which = None,
    imported: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --format neuronpedia: write what `import` stored under this name, as it was read.",
        ),
    ] = None,
) -> None:
    """Write labels and what is known of features for other tools.

    Windows are those of the split explain alone, so that labels written from them can be scored on test. What others wrote is
    not written, but with --imported, which gives an imported Neuronpedia export back field by field. Neuronpedia's files
    hold no splits, thresholds, scores, rules or negative poles; JSON lines hold the label and its scores, no other
    explanations or windows; Parquet holds every view with all of its columns, `published` too.
    """
    from glossator.exchange import export as write
    from glossator.store.files import refuse_to_overwrite
    from glossator.store.reading import open_for_reading
    from glossator.store.records import dictionaries

    refuse_to_overwrite(to)
    with open_for_reading(path, err.print) as reader:
        names = dictionaries(reader) if form == "parquet" and features is None else []  # which takes all of them
    with looked_at(path, dictionary or next(iter(names), None)) as run:
        chosen = parse_features(features, run.poles)
        said = write(run, form, to, chosen, whole=dictionary is None, imported=imported)
        out.print(said, soft_wrap=True)


@app.command("import", epilog=example("import run.duckdb their_labels.jsonl delphi_results/"))
def import_(
    path: RunFile,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Labels as JSONL, JSON, CSV or Parquet; a Neuronpedia export; a Delphi folder with explanations/ and scores/.",
        ),
    ],
    dictionary: Which = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="What the import is called, labels after `imported:`; the file's or folder's name if not given."
        ),
    ] = None,
) -> None:
    """Store labels that others wrote, the scores they gave them, and what they published of features, without scoring it.

    Labels become a set of their own, which `score --labels` scores. Their scores are marked as theirs (split `theirs`) and
    stand in no view. Features, activations and explanations of a Neuronpedia export are kept as they are in tables of their
    own (the view `published` has them beside ours), each file once and whole or not at all, and compared with this run's.
    """
    from glossator.agents.run import Run
    from glossator.exchange import import_files
    from glossator.store.records import dictionaries, the_dictionary

    with written(path) as store:
        first = dictionary if dictionary is not None or not (names := dictionaries(store)) else names[0]
        run = Run(store, the_dictionary(store, first), say=err.print)
        out.print(import_files(run, files, dictionary, name), soft_wrap=True)
