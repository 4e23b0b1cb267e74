"""The one page that reads top to bottom: harvest -> explain -> probe -> score -> report."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from glossator import __version__
from glossator.config import CorpusConfig, HarvestConfig, SubjectConfig
from glossator.store.store import Store


def run_harvest(
    path: Path, what: SubjectConfig, corpus_config: CorpusConfig, config: HarvestConfig, say: Callable[[str], None], progress: Callable[[int, int], None]
) -> None:
    from glossator.harness.contexts import prepare
    from glossator.harness.corpus import read_corpus
    from glossator.harness.dictionary import SaeDictionary, check_width
    from glossator.harness.harvest import harvest, loading_check
    from glossator.harness.subject import HFSubject
    from glossator.harness.tables import harvest_tables

    subject = HFSubject(what.model, what.hook, context_size=corpus_config.context_size, device=config.device)
    dictionary = SaeDictionary(what.dictionary, device=config.device)
    check_width(dictionary, subject.d_hook, what.hook)
    size = subject.context_size - len(subject.prefix) - len(subject.suffix)
    corpus = prepare(read_corpus(what.corpus), subject.tokenize, size, corpus_config)
    check = loading_check(subject, dictionary, corpus, config)
    say(str(check))
    folder = path.with_suffix(".harvest")
    found = harvest(subject, dictionary, corpus, config, folder, progress)
    with Store(path) as store:
        store.put_tables(harvest_tables(subject, dictionary, corpus, list(what.corpus), found, check, config))
    shutil.rmtree(folder, ignore_errors=True)
