"""What a table's rows belong to, and when they happened: guesses of the group and of the time of a split.

A column of ids names *entities* (a patient, a rescuer, a photo) where new rows will bring values that no training row
has: a model is then asked about strangers, and has to be tested on strangers. It is a *category* (a product, a shop)
where the same values come again and again: a model will meet them again, and a random split is a fair test. What tells
one from the other is how many rows a value has, and how evenly: entities have few rows each, or about the same number
by design (five captions of a photo); categories have many, and some far more than others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

FEW_EACH = 3.0
"""Rows that a value has on average, up to which every third row or more has brought a new one."""
MANY, ROWS_EACH = 20, 5
"""Groups that a split needs, or as many as stand for so many rows each: of fewer, test rows come from a handful."""
SOME_EACH, EVEN = 10.0, 2.0
"""Up to so many rows each a column still names entities, if none has more than twice the average."""
PEOPLE = (
    *("group", "subject", "patient", "speaker", "user", "person", "customer", "client", "author", "owner", "session"),
    *("rescuer", "participant", "student", "member"),
)
ID_WORDS = ("id", "uid", "uuid", "guid", "key", "hash", "name", "number", "no", "nr", "code")
EVENTS = (
    *("date", "day", "time", "timestamp", "datetime", "created", "posted", "published", "ordered", "sold", "visited"),
    *("admitted", "recorded", "measured", "sent", "reviewed", "listed", "when", "month", "week"),
)
NO_EVENTS = ("birth", "born", "birthday", "dob", "death", "expires", "expiry", "due", "deadline", "until", "valid")
MOMENTS = 10
"""Different times from which rows can be split by time."""
IN_ORDER = 0.95
TRAIN, DEV = 0.7, 0.85


def words_of(name: str) -> list[str]:
    """``["rescuer", "id"]`` of ``RescuerID``, ``rescuer_id`` and ``Rescuer ID``."""
    parts = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return re.findall(r"[a-z0-9]+", parts.lower())


def names_people(name: str) -> bool:
    """Whether a column is called ``patient``, ``RescuerID``, ``user_name``: one who stands behind several rows."""
    words = words_of(name)
    return len(words) in (1, 2) and words[0] in PEOPLE and (len(words) == 1 or words[1] in ID_WORDS)


def is_entity(counts: Mapping[Any, int]) -> bool:
    """Whether values with so many rows are entities, or else categories."""
    each = sum(counts.values()) / len(counts)
    return each <= FEW_EACH or (each <= SOME_EACH and max(counts.values()) <= EVEN * each)


def are_few(groups: int, rows: int) -> bool:
    """Whether so many groups are too few to split rows by."""
    return groups < min(MANY, rows / ROWS_EACH)


def why_few(name: str, groups: int, rows: int) -> str | None:
    """What to say of a group column of few values."""
    if not are_few(groups, rows):
        return None
    return (
        f"group {name!r} has {groups} values in {rows:,} rows: test rows come from a handful of them, and the figures "
        "depend on which. Keep it if new rows will be of none of them; if it is a category, leave it a column"
    )


def why_category(counts: Mapping[str, int]) -> str:
    """What to say of a column of ids that is no group."""
    rows, most = sum(counts.values()), max(counts.values())
    return (
        f"a category, not a group: {len(counts)} values of {rows / len(counts):.1f} rows each, up to {most}, so new "
        "rows will have known ones (--group, in Python group=, keeps them apart)"
    )


def why_in_time(name: str, moments: Sequence[datetime | None]) -> str | None:
    """Why rows happened in time, by a column of dates that is there in every row; None where it does not say so."""
    words = words_of(name)
    if set(words) & set(NO_EVENTS) or None in moments or len(set(moments)) < MOMENTS:
        return None
    steps = [(b > a) - (b < a) for a, b in pairwise(moments) if a is not None and b is not None]
    sign = Counter(steps)
    if max(sign[1], sign[-1]) >= IN_ORDER * (sign[1] + sign[-1]):
        return "the rows stand in its order"
    return "its name says when a row happened" if set(words) & set(EVENTS) else None


def why_not_cut(moments: Sequence[Any], classes: Sequence[str] | None, group: Sequence[str] | None) -> str | None:
    """Why rows cannot be cut into train, dev and test by time; None where they can.

    Args:
        moments: of every row.
        classes: of every row, where the target has some.
        group: of every row; a group stands at its last moment.
    """
    when = np.array([moment.timestamp() for moment in moments])
    if group is not None:
        code = np.unique(np.asarray(group), return_inverse=True)[1].reshape(-1)
        last = np.full(code.max() + 1, -np.inf)
        np.maximum.at(last, code, when)
        when = last[code]
    order = np.argsort(when, kind="stable")
    ends = [when[order[min(int(share * len(order)), len(order) - 1)]] for share in (TRAIN, DEV)]
    if not ends[0] < ends[1] < when.max():
        most = int(np.unique(when, return_counts=True)[1].max())
        at_last = "" if group is None else ", where every group stands at its last"
        return f"it cuts no three parts; {most:,} of {len(when):,} rows are of one moment{at_last}"
    early = when <= ends[0]
    late = [] if classes is None else sorted({c for c, e in zip(classes, early, strict=True) if not e})
    known = set() if classes is None else {c for c, e in zip(classes, early, strict=True) if e}
    unknown = [c for c in late if c not in known]
    return f"the last rows have classes that no earlier row has, such as {unknown[0]!r}" if unknown else None
