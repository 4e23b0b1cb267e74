"""Exchange with other tools: labels, features, activations and scores go out, and those of others come in.

neuronpedia.py has the rows of Neuronpedia's files, json_lines.py reads them line by line, lines.py writes our own JSONL;
exporting.py writes a run in these forms and in Parquet, importing.py takes files in, theirs.py the scores that other tools
gave; published.py keeps what they published of features and gives it back, agreement.py compares it with ours.
"""

from glossator.exchange.exporting import FORMATS, export
from glossator.exchange.importing import import_files

__all__ = ["FORMATS", "export", "import_files"]
