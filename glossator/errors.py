"""Every error that Glossator raises on purpose.

    GlossatorError              exit 1: the work failed
    |-- UsageError              exit 2: a flag, a file or a name is wrong
    |   |-- CorpusError         missing, empty or unreadable text
    |   |-- SubjectError        no such model, or no such hook in it
    |   |-- DictionaryError     cannot be loaded, or does not fit the hook
    |   `-- FeatureError        no such feature
    |-- StoreError              the run file cannot be read or written
    |   `-- UnsealedError       an outcome was offered before its prediction was stored
    |-- HarvestError            the subject or the dictionary gave numbers that cannot be used
    `-- Stopped                 exit 3: stopped in good order; run again to go on

A message is one line that names the file, the flag or the row, and the way out.
"""


class GlossatorError(Exception):
    exit_code = 1


class UsageError(GlossatorError):
    exit_code = 2


class CorpusError(UsageError):
    pass


class SubjectError(UsageError):
    pass


class DictionaryError(UsageError):
    pass


class FeatureError(UsageError):
    pass


class StoreError(GlossatorError):
    pass


class UnsealedError(StoreError):
    pass


class HarvestError(GlossatorError):
    pass


class Stopped(GlossatorError):
    exit_code = 3
