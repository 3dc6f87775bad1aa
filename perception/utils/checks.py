"""Small helpers for messages about wrong names and values."""
from collections.abc import Iterable
from difflib import get_close_matches
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
        if not value > 0:
            raise ConfigError(f'{what}: {name}={value!r}, expected a number above 0. Correct it.')
