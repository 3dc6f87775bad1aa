"""Small helpers for messages about wrong names and values."""
from collections.abc import Iterable
from difflib import get_close_matches


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
