"""What a model must hold before it is deployed: rules as they are given, and whether measured figures keep them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sparsecse.errors import InputError, meant
from sparsecse.settings import documented, setting

MINIMUM, MAX_DROP, MIN_AGREEMENT, MIN_SPEEDUP = "min", "max-drop", "min-agreement", "min-speedup"
MAX_BYTES, MAX_PARAMETERS = "max-bytes", "max-parameters"
"""The rules, as the command line and records name them."""

# Rules with a name each, and the parameter that gives them.
_NAMED = {MINIMUM: "minimum", MAX_DROP: "max_drop"}

LEVEL = 0.95
"""Least confidence of the interval of the speedup."""

_SIZE = re.compile(r"([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)\s*([kmg]?i?)b?", re.IGNORECASE)
_MOST_DIGITS = 30
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_size(text: str) -> int:
    """Bytes written as `60MB` (10^6), `57MiB` (2^20) or a plain number; kB, KiB, GB and GiB too."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _UNITS or len(match[1]) > _MOST_DIGITS:
        raise InputError(f"`max_bytes` '{text:.40}' is no size; write one such as 60MB, 57MiB or 60000000.")
    return math.floor(float(match[1]) * _UNITS[match[2].lower()])


@dataclass(frozen=True)
class Rule:
    """One bound.

    kind: one of the names above. bound: in its unit (points x100, bytes, a ratio, ...).
    subject: the task or kind of tasks that it is about, as it was given; "" for the other rules.
    tasks: the tasks whose mean is meant, by their own names; see `resolved`.
    """

    kind: str
    bound: float
    subject: str = ""
    tasks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`max-drop retrieval`."""
        return f"{self.kind} {self.subject}".strip()


@documented
@dataclass(frozen=True)
class Rules:
    """What a model must hold; without a value a rule is not checked."""

    minimum: tuple[str, ...] = setting(
        (),
        "Least figure of a task, or least mean of a kind of tasks (similarity, retrieval, reranking, classification, "
        "clustering, transfer), x100 as `sparsecse eval` prints it: stsb=82.0. Repeat it, or use commas.",
        "--min",
        metavar="NAME=FIGURE",
    )
    max_drop: tuple[str, ...] = setting(
        (),
        "Points (x100) that a task or the mean of a kind may lie below the baseline: similarity=0.3. Repeat it, or use "
        "commas.",
        metavar="NAME=POINTS",
    )
    min_agreement: float | None = setting(
        None,
        "Least agreement with the baseline on unlabelled sentences: the Spearman of the similarities in a block, as "
        "`sparsecse eval --agreement` prints it, at most 1.",
    )
    max_bytes: int | None = setting(
        None,
        "Most bytes of the files that the model is loaded from, exports and the card left out: 60MB, 57MiB, 60000000.",
        parse=parse_size,
        metavar="SIZE",
    )
    max_parameters: int | None = setting(None, "Most parameters, embeddings included.")
    min_speedup: float | None = setting(
        None,
        "How many times as fast as the baseline the model must at least be: a ratio of times taken in turn in this "
        "run. The lower end of its interval (95 %) must be above it.",
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
                raise InputError(f"`{one.name}` {value:g} bounds nothing; give a number above 0.")
        if self.min_agreement is not None and self.min_agreement > 1:
            raise InputError(
                f"`min_agreement` {self.min_agreement:g} is above 1, the agreement of a model with itself."
            )
        self.each()

    def each(self) -> list[Rule]:
        """All rules; where a task or kind has two bounds of one kind, the last one."""
        found = [
            Rule(kind, bound, subject)
            for kind, parameter in _NAMED.items()
            for subject, bound in _bounds(parameter, getattr(self, parameter)).items()
        ]
        for kind in (MIN_AGREEMENT, MAX_BYTES, MAX_PARAMETERS, MIN_SPEEDUP):
            value = getattr(self, kind.replace("-", "_"))
            if value is not None:
                found.append(Rule(kind, value))
        return found


def _bounds(parameter: str, given: Iterable[str]) -> dict[str, float]:
    """`NAME=NUMBER` texts, by name."""
    found = {}
    for text in (part.strip() for each in given for part in each.split(",") if part.strip()):
        name, _, number = (part.strip() for part in text.rpartition("="))
        try:
            bound = float(number)
        except ValueError:
            bound = math.nan
        if not name or not math.isfinite(bound):
            raise InputError(f"`{parameter}` '{text}' is no bound; write a task or kind and a number: stsb=82.0.")
        if parameter == "max_drop" and bound < 0:
            raise InputError(f"`max_drop` {text} is below 0; give the points, x100, that may be lost.")
        found[name] = bound
    return found


def resolved(
    rules: Sequence[Rule], kinds: Mapping[str, str], find: Callable[[str], str | None] = lambda name: None
) -> list[Rule]:
    """The rules with the tasks that each is about.

    Args:
        kinds: the kind of each task that there is, by the task's own name.
        find: the own name of the task that a name or path means, None where there is none.

    Raises:
        InputError: a rule about something else.
    """
    found = []
    for rule in rules:
        tasks = tuple(task for task, kind in kinds.items() if kind == rule.subject)
        if rule.subject and not tasks:
            task = find(rule.subject)
            if task is None:
                known = ", ".join(f"{task} ({kind})" for task, kind in kinds.items())
                raise InputError(
                    f"`{_NAMED[rule.kind]}` {rule.subject} is no task or kind of those in `tasks`: {known}; name one, "
                    f"or add the task there.{meant(rule.subject, [*kinds, *kinds.values()])}"
                )
            tasks = (task,)
        found.append(replace(rule, tasks=tasks))
    return found


@dataclass(frozen=True)
class Interval:
    """A median with the ends of its interval, at least `LEVEL` sure."""

    median: float
    low: float
    high: float


def least_rounds(level: float = LEVEL) -> int:
    """The fewest values whose smallest and largest enclose the median with that confidence."""
    return next(count for count in range(2, 64) if 1 - 2 * 0.5**count >= level)


def ratio_interval(theirs: Sequence[float], ours: Sequence[float], level: float = LEVEL) -> Interval:
    """The median of `theirs / ours`, taken in pairs, and the narrowest symmetric interval of order statistics for it.

    Whatever the distribution of independent ratios, the k-th smallest and the k-th largest of n enclose the median with
    probability 1 - 2 P(Binomial(n, 1/2) < k) (Conover 1999, Practical Nonparametric Statistics, section 3.2). How far
    off a disturbed round is does not matter from 9 rounds on, where the ends are no longer the extremes.

    Args:
        theirs, ours: seconds of the baseline and of the model, round by round.

    Raises:
        InputError: fewer rounds than `least_rounds`.
    """
    count = len(ours)
    if count < least_rounds(level):
        raise InputError(f"`rounds` {count} is too few for an interval; give at least {least_rounds(level)}.")
    ratios = sorted(base / own for base, own in zip(theirs, ours, strict=True))
    outside, rank = 0.0, 0
    while (more := outside + 2 * math.comb(count, rank) / 2**count) <= 1 - level:
        outside, rank = more, rank + 1
    middle = (ratios[(count - 1) // 2] + ratios[count // 2]) / 2
    return Interval(middle, ratios[rank - 1], ratios[count - rank])


@dataclass(frozen=True)
class Measured:
    """What was measured for the rules; what none of them needs is absent.

    tasks, baseline: the figure of each task, x100, of the model and of its baseline. agreement: see `Rules`.
    bytes, parameters: of the model. speedup: over the baseline.
    """

    tasks: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    agreement: float | None = None
    bytes: int | None = None
    parameters: int | None = None
    speedup: Interval | None = None


@dataclass(frozen=True)
class Verdict:
    """A rule and whether it holds.

    figure: what is compared with the bound. found, asked: both in words, "0.62 (82.02 to 81.40)" and "at most 0.3".
    of: what the figure is of, for a sentence. details: the figures that `figure` was made from.
    """

    rule: Rule
    figure: float
    holds: bool
    found: str
    asked: str
    of: str
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What was found and what is asked."""
        return f"{self.of} is {self.found}; it must be {self.asked}."

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`."""
        rule = {"rule": self.rule.kind, "name": self.rule.subject or None, "tasks": list(self.rule.tasks)}
        return {**rule, "figure": self.figure, "bound": self.rule.bound, "holds": self.holds, **self.details}


def judge(rules: Sequence[Rule], measured: Measured) -> list[Verdict]:
    """Whether each rule holds; rules: as `resolved` gives them, and `measured` must have what they need."""
    return [_JUDGES[rule.kind](rule, measured) for rule in rules]


def _mean(figures: Mapping[str, float], tasks: Sequence[str]) -> float:
    return sum(figures[task] for task in tasks) / len(tasks)


def _shown(figure: float, bound: float, digits: int) -> str:
    """A figure with so many digits, or with as many more as tell it from a bound that it is not equal to."""
    while figure != bound and round(figure, digits) == round(bound, digits) and digits < 12:
        digits += 1
    return f"{figure:.{digits}f}"


def _judge_minimum(rule: Rule, measured: Measured) -> Verdict:
    figure = _mean(measured.tasks, rule.tasks)
    found, asked = _shown(figure, rule.bound, 2), f"at least {rule.bound:g}"
    return Verdict(rule, figure, figure >= rule.bound, found, asked, f"{rule.subject} x100")


def _judge_drop(rule: Rule, measured: Measured) -> Verdict:
    ours, theirs = _mean(measured.tasks, rule.tasks), _mean(measured.baseline, rule.tasks)
    drop = round(theirs - ours, 9)  # 80.4 - 80.1 is above 0.3 in binary
    found = f"{_shown(drop, rule.bound, 2)} ({theirs:.2f} to {ours:.2f})"
    of = f"The drop of {rule.subject} below the baseline, x100,"
    details = {"model": ours, "baseline": theirs}
    return Verdict(rule, drop, drop <= rule.bound, found, f"at most {rule.bound:g}", of, details)


def _judge_agreement(rule: Rule, measured: Measured) -> Verdict:
    assert measured.agreement is not None
    figure = measured.agreement
    of = "The agreement with the baseline (Spearman of the similarities in a block)"
    found, asked = _shown(figure, rule.bound, 4), f"at least {rule.bound:g}"
    return Verdict(rule, figure, figure >= rule.bound, found, asked, of)


def _judge_count(rule: Rule, count: int | None, of: str) -> Verdict:
    assert count is not None
    return Verdict(rule, count, count <= rule.bound, f"{count:,}", f"at most {rule.bound:,}", of)


def _judge_speedup(rule: Rule, measured: Measured) -> Verdict:
    assert measured.speedup is not None
    ratio = measured.speedup
    found = f"{_shown(ratio.low, rule.bound, 2)} to {ratio.high:.2f} ({ratio.median:.2f})"
    of = f"The speedup over the baseline ({LEVEL:.0%} interval, median)"
    asked = f"above {rule.bound:g}"
    return Verdict(rule, ratio.low, ratio.low > rule.bound, found, asked, of, asdict(ratio))


_JUDGES: dict[str, Callable[[Rule, Measured], Verdict]] = {
    MINIMUM: _judge_minimum,
    MAX_DROP: _judge_drop,
    MIN_AGREEMENT: _judge_agreement,
    MAX_BYTES: lambda rule, measured: _judge_count(rule, measured.bytes, "The size of the loaded files, in bytes,"),
    MAX_PARAMETERS: lambda rule, measured: _judge_count(rule, measured.parameters, "The number of parameters"),
    MIN_SPEEDUP: _judge_speedup,
}
