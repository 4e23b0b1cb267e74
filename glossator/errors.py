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
    |-- ProviderError           no question can be answered: bad key, no credit, no such model, nobody there
    |-- ReplyError              one question ended without a usable reply: it becomes a failure row
    |   |-- RefusedError        the model declined
    |   |-- UnparsableError     the reply has not the form asked for, twice
    |   |-- CutOffError         the reply ended at max_tokens, twice
    |   |-- RejectedError       the provider would not take this one question
    |   `-- UnavailableError    no reply came after every retry
    `-- Stopped                 exit 3: stopped in good order; run again to go on
        |-- BudgetSpent         the next question does not fit into the budget
        `-- BatchWaiting        replies of a batch are not there yet

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


class ProviderError(GlossatorError):
    pass


class ReplyError(GlossatorError):
    pass


class RefusedError(ReplyError):
    pass


class UnparsableError(ReplyError):
    pass


class CutOffError(ReplyError):
    pass


class RejectedError(ReplyError):
    pass


class UnavailableError(ReplyError):
    pass


class Stopped(GlossatorError):
    exit_code = 3


class BudgetSpent(Stopped):
    pass


class BatchWaiting(Stopped):
    pass
