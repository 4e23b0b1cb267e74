"""The report: one self-contained HTML page about a run file, to be read in the morning after a night of labelling.

page.py gathers and writes it; sections.py and figures.py hold what is summed over features, cards.py what is shown of one
feature, debates.py the transcripts. page.html.jinja, page.css and page.js are its template, style and script.
"""

from glossator.report.page import write_report

__all__ = ["write_report"]
