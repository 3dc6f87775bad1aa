"""Small helpers for messages about wrong names and values."""
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

from perception.utils.errors import ConfigError


def close_matches(name: str, known: Iterable[str]) -> str:
    """`Did you mean a, b?` for a misspelt name, or the known names when none is near.

    Args:
        name: the name that came.
        known: the names that would have been right.
    """
    known = sorted(set(map(str, known)))
    near = get_close_matches(str(name), known, n=3, cutoff=0.6)
    if near:
        return f'Did you mean {" or ".join(near)}?'
    return f'Known: {", ".join(known[:20])}{", ..." if len(known) > 20 else ""}.' if known else 'None is known.'


def check_choice(what: str, value: Any, choices: Iterable[Any]) -> None:
    """See that a value is one of some.

    Args:
        what: it is called, with what has it, such as `'KDLoss: rows'`.
        value: that came.
        choices: that would have been right.

    Raises:
        ConfigError: it is none of them.
    """
    choices = list(choices)
    if value not in choices:
        near = get_close_matches(str(value), map(str, choices), n=3, cutoff=0.6)
        raise ConfigError(f'{what}={value!r}, expected one of {", ".join(map(str, choices))}. '
                          + (f'Did you mean {" or ".join(near)}?' if near else 'Choose one of them.'))


def check_positive(what: str, **values: float) -> None:
    """See that numbers are more than 0.

    Args:
        what: they belong to, as it starts the message.
        **values: by name.

    Raises:
        ConfigError: the first one that is not.
    """
    for name, value in values.items():
        if not isinstance(value, Real) or not value > 0:
            raise ConfigError(f'{what}: {name}={value!r}, expected a number above 0. Correct it.')


def check_class_weights(what: str, weights: Sequence[float] | None, num_classes: int) -> None:
    """See that each class has a weight.

    Args:
        what: it is called that has them, such as `'MinkUNet'`.
        weights: that came, None for none.
        num_classes: of the classes that count.

    Raises:
        ConfigError: another number of them, one below 0 or infinite, or none above 0.
    """
    if weights is None:
        return
    if len(weights) != num_classes:
        raise ConfigError(f'{what}: {len(weights)} class_weights for {num_classes} classes, expected equal numbers. A '
                          'background counts, an ignored label does not.')
    if not all(isinstance(w, Real) and 0 <= w < float('inf') for w in weights) or not any(weights):
        raise ConfigError(f'{what}: class_weights={list(weights)}, expected weights of 0 or more, one of them above 0. '
                          'Correct them.')


def rows_and_columns(what: str, value: Any) -> tuple[int, int]:
    """Rows and columns, once it is sure that they are.

    Args:
        what: it is called, with what has it, such as `'LaneFolder: image_size'`.
        value: that came.

    Raises:
        ConfigError: it is not two whole numbers of at least 1.
    """
    if not isinstance(value, Sequence) or len(value) != 2 or \
            not all(isinstance(n, Integral) and n >= 1 for n in value):
        raise ConfigError(f'{what}={value!r}, expected (rows, columns) in pixels, such as (1080, 1920). Correct it.')
    return int(value[0]), int(value[1])
