"""Errors a user can act on: one line that names what, where, and the fix, shown without a traceback."""


class RobertError(Exception):
    """Base of every error raised on purpose. `problem` says what and where, `fix` what to do about it.

    `transient`: it may go away by itself, as where a place is out of reach for a while; schedules try again.
    """

    def __init__(self, problem: str, *, fix: str = "", transient: bool = False) -> None:
        super().__init__(f"{problem}. {fix}" if fix else problem)
        self.problem = problem
        self.fix = fix
        self.transient = transient

    def __reduce__(self) -> tuple[object, ...]:
        # Beam moves exceptions between processes; keyword-only arguments need telling how.
        return (_rebuild, (type(self), self.problem, self.fix, self.transient))


def _rebuild(kind: type[RobertError], problem: str, fix: str, transient: bool) -> RobertError:
    return kind(problem, fix=fix, transient=transient)


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line without a full stop; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return (lines[0].strip().rstrip(".") if lines else "") or type(error).__name__


class ConfigError(RobertError):
    """A setting is wrong; the message names the field."""


class CorpusError(RobertError):
    """A corpus, as a whole, cannot be read: missing, empty, not Parquet, a wrong or missing column."""


class EncoderError(RobertError):
    """An encoder cannot be loaded or does not fit the settings."""


class StoreError(RobertError):
    """A shard is damaged, foreign, or cannot be written."""


class ModelError(RobertError):
    """A head artefact is damaged, of another kind, or does not fit the shards it is asked to score."""


class TrainingError(RobertError):
    """A head cannot be trained from the data given."""


class WarehouseError(RobertError):
    """The published table cannot be read or changed."""


class GateError(RobertError):
    """A head may not become the current one: the message names every limit it breaks, or who was faster."""


class EngineError(RobertError):
    """An engine cannot be reached, has workers that are unfit for the run, or lost all of them."""


class BudgetError(RobertError):
    """A backfill would cost more than it may, or nobody can say."""


class ClaimError(RobertError):
    """Another run works on the partition, or has taken it over because this one gave no sign of life."""


class BoundsError(RobertError):
    """Too many rejects, or another distribution of labels than the partition before. Nothing is published."""


class AccountingError(RobertError):
    """Documents in do not equal labelled plus rejected. Nothing is published."""
