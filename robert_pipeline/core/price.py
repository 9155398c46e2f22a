"""What a backfill will cost: rates of earlier runs and the work to do enter, an estimate leaves. Reads nothing.

A rate is the machine's: two runs that were active at the same time shared it, so the seconds of a run count by the
share of the machine that it had.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from robert_pipeline.core.backfill import PartitionFacts
from robert_pipeline.errors import BudgetError, ConfigError

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RateSample:
    """What one run of one partition took. `embed_*` is what it embedded itself; `active` runs shared the machine.

    `seconds` is all of it, from the start of the process to the commit; `embed_seconds` the part of it that embedded.
    """

    encoder_fingerprint: str
    machine: str
    documents: int
    embed_documents: int
    embed_tokens: int
    embed_text_bytes: int
    embed_seconds: float
    seconds: float
    active: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What earlier runs say of one encoder on one machine; None where none of them says it.

    `partition_seconds` is what a partition takes besides embedding; `samples` is the number of runs behind all of it.
    """

    tokens_per_byte: float | None
    tokens_per_second: float | None
    partition_seconds: float | None
    samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """The price list of a backfill. What earlier runs do not say is None."""

    partitions: int
    documents: int
    documents_to_embed: int
    tokens: int | None
    tokens_to_embed: int | None
    embedded_share: float
    """Of the text, by bytes: what needs no forward pass."""
    hours: float | None
    price_per_hour: float | None

    @property
    def money(self) -> float | None:
        """Hours times the price of one."""
        if self.hours is None or self.price_per_hour is None:
            return None
        return self.hours * self.price_per_hour

    def check_budget(self, budget: float | None) -> None:
        """Raise BudgetError above `budget`, or where nobody can say; ConfigError where an hour has no price."""
        if budget is None:
            return
        if self.price_per_hour is None:
            raise ConfigError("--budget is given, but not what an hour costs", fix="Give it with --price-per-hour")
        if self.partitions == 0:
            return
        if self.money is None:
            raise BudgetError(
                "whether this stays within the budget is unknown: no run of this encoder on this machine is recorded",
                fix="Run one partition first (`robert backfill --partition …`), or leave --budget out",
            )
        if self.money > budget:
            raise BudgetError(
                f"this would cost about {self.money:,.2f}, the budget is {budget:,.2f}; nothing was run",
                fix="Narrow it with --since and --until, or raise --budget",
            )


def rates(samples: Sequence[RateSample], *, encoder_fingerprint: str, machine: str) -> Rates:
    """Rates of an encoder on a machine, sums over sums, so that long runs weigh more.

    How many tokens a byte of text gives is the tokenizer's, whatever the machine.
    """
    same_encoder = [sample for sample in samples if sample.encoder_fingerprint == encoder_fingerprint]
    here = [sample for sample in same_encoder if sample.machine == machine]
    text_bytes = sum(sample.embed_text_bytes for sample in same_encoder)
    embed_seconds = sum(sample.embed_seconds / sample.active for sample in here if sample.embed_tokens)
    tokens = sum(sample.embed_tokens for sample in here)
    besides = sum((sample.seconds - sample.embed_seconds) / sample.active for sample in here)
    return Rates(
        tokens_per_byte=sum(s.embed_tokens for s in same_encoder) / text_bytes if text_bytes else None,
        tokens_per_second=tokens / embed_seconds if tokens and embed_seconds else None,
        partition_seconds=besides / len(here) if here else None,
        samples=len(here),
    )


def estimate(chosen: Sequence[PartitionFacts], known: Rates, *, price_per_hour: float | None) -> Estimate:
    """The price of running the chosen partitions."""
    text_bytes = sum(fact.text_bytes for fact in chosen)
    missing_bytes = sum(fact.missing_text_bytes for fact in chosen)
    to_embed = _tokens(missing_bytes, known)
    return Estimate(
        partitions=len(chosen),
        documents=sum(fact.documents for fact in chosen),
        documents_to_embed=sum(fact.missing_documents for fact in chosen),
        tokens=_tokens(text_bytes, known),
        tokens_to_embed=to_embed,
        embedded_share=1 - missing_bytes / text_bytes if text_bytes else 1.0,
        hours=_hours(len(chosen), to_embed, known),
        price_per_hour=price_per_hour,
    )


def _tokens(text_bytes: int, known: Rates) -> int | None:
    if text_bytes == 0:
        return 0
    return None if known.tokens_per_byte is None else round(text_bytes * known.tokens_per_byte)


def _hours(partitions: int, tokens_to_embed: int | None, known: Rates) -> float | None:
    if partitions == 0:
        return 0.0
    if tokens_to_embed is None or known.partition_seconds is None:
        return None
    if tokens_to_embed == 0:
        return partitions * known.partition_seconds / SECONDS_PER_HOUR
    if known.tokens_per_second is None:
        return None
    return (tokens_to_embed / known.tokens_per_second + partitions * known.partition_seconds) / SECONDS_PER_HOUR
