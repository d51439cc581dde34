"""Lists that a program wrote into a cell: JSON, Python's own, and what numpy and torch print.

``df.to_csv`` writes an array as it is printed, ``[ 0.44 -2.47\\n  1.5 ]``, a list as Python does, ``['a', 'b']`` or
``[np.float64(0.5)]``, a tensor as ``tensor([0.44, -2.47])``. Long arrays are printed with ``...`` in their middle: what
stood there is lost, so such a cell is never read (:func:`is_cut`).
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from typing import Any

from weft.errors import UserError, short

_STARTS = re.compile(r"\s*(?:\[|\((?=.*, )|\{(?=[^:]*\}\s*$)|(?:\w+\.)?(?:array|tensor|Tensor|Array)\()", re.DOTALL)
_CALL = re.compile(
    r"(?:\b(?:np|numpy|torch|jnp)\.)?\b(?:array|tensor|Tensor|Array|str_|float\d+|u?int\d+|bool_?)"
    r"\(((?:[^()'\"]|'[^']*'|\"[^\"]*\")*?)(?:,\s*\w+=[^\[\](),]*(?:\([^()]*\))?)*\)"
)
_CUT = re.compile(r"(?<=[\s,\[])\.\.\.(?=[\s,\]])")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_WORDS = re.compile(r"\b(nan|NaN|inf|Infinity|null|true|false)\b")
_PYTHON = {
    **dict.fromkeys(("nan", "NaN", "null"), "None"),
    **dict.fromkeys(("inf", "Infinity"), "1e999"),
    "true": "True",
    "false": "False",
}


def as_list(cell: Any) -> list[Any] | None:
    """A list cell, or a list that was written into a string; None for anything else, and for one that was cut."""
    if isinstance(cell, list):
        return cell
    if not isinstance(cell, str) or _STARTS.match(cell) is None or is_cut(cell):
        return None
    return _read(cell)


def is_cut(cell: Any) -> bool:
    """Whether a cell is an array that was printed with ``...`` for most of its numbers."""
    if not isinstance(cell, str) or "..." not in cell or _STARTS.match(cell) is None:
        return False
    numbers = _CUT.sub(" ", cell) if "," not in cell else re.sub(r",?\s*\.\.\.,", ",", cell)
    return numbers != cell and _is_numbers(_read(numbers))


def refuse_cut(where: str, cells: Sequence[Any]) -> None:
    """Refuse cells that hold arrays of which most was never written.

    Raises:
        UserError: one of them does; ``where`` says whose they are.
    """
    cut = next(filter(is_cut, cells), None)
    if cut is None:
        return
    raise UserError(
        f"{where}: an array was printed with '...' when the table was written, and its numbers are lost",
        short(cut),
        "write it whole: Parquet keeps arrays; for a CSV, df[column].map(lambda a: a.tolist()) before to_csv",
    )


def _is_numbers(items: list[Any] | None) -> bool:
    return (
        items is not None
        and len(items) > 0
        and all(_is_numbers(i) if isinstance(i, list) else isinstance(i, int | float) for i in items)
    )


def _read(text: str) -> list[Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _python(text)
    return value if isinstance(value, list) else None


def _python(text: str) -> Any:
    """What Python, numpy or torch wrote; None where it is none of theirs."""
    before = ""
    while text != before:
        before, text = text, _CALL.sub(r"\1", text)
    if "'" in text or '"' in text:
        text = re.sub(r"(?<=['\"])\s+(?=['\"])", ", ", text)  # an array of words has no commas
    elif "," in text:
        text = _WORDS.sub(lambda word: _PYTHON[word[0]], text)
    else:
        return _spaced(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, which finds words that begin with "(" odd
            value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    return _lists(value)


def _lists(value: Any) -> Any:
    if isinstance(value, set):
        return sorted(value, key=str)
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _spaced(text: str) -> Any:
    """``[[1. 2.]\\n [3. nan]]``: numbers with spaces between them."""
    stack: list[list[Any]] = [[]]
    for token in text.replace("[", " [ ").replace("]", " ] ").split():
        if token == "[":
            stack.append([])
        elif token == "]":
            if len(stack) < 2:
                return None
            inner = stack.pop()
            stack[-1].append(inner)
        elif token in ("True", "False"):
            stack[-1].append(token == "True")
        else:
            try:
                stack[-1].append(float(token))
            except ValueError:
                return None
    return stack[0][0] if len(stack) == len(stack[0]) == 1 else None
