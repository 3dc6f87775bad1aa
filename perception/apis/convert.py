"""Published weights to weights of this project; the body of tools/convert_checkpoint.py.

A converter is a module `perception/<room>/convert/<net>.py` whose docstring begins with the projects it reads. It has
`OPTIONS`, a literal with arguments of the command line; `fits(weights)`, whether it knows them; and
`convert(weights, options)`, which gives the new weights and says how to use them.
"""
import argparse
from pathlib import Path
from types import ModuleType

from perception.apis.listing import converters
from perception.utils.checkpoint import check_finite, load_checkpoint, save_atomic, weights_of
from perception.utils.errors import CheckpointError
from perception.utils.outputs import check_free, result_path

PARTS = ('model', 'net', 'g_ema', 'student')  # keys that others save the weights to deploy under


def convert(options: argparse.Namespace) -> str:
    """Convert one file.

    Args:
        options: `source`, `target`, perhaps `room`, and the options of all converters.

    Returns:
        what was written and how to use it, for people.

    Raises:
        CheckpointError: the target is a folder, or weights that are not finite or that no converter knows.
        DataError: a file is there that no command of this project wrote, such as the source itself.
    """
    target = Path(options.target).expanduser()
    if target.is_dir():
        raise CheckpointError(f'{target}: a folder came, expected the name of the file to write. Add a file name.')
    check_free(target)
    checkpoint = load_checkpoint(options.source)
    inner = next((checkpoint[key] for key in PARTS if key in checkpoint), None)
    weights = weights_of(inner if isinstance(inner, dict) else checkpoint, options.source)
    wanted = getattr(options, 'room', None)
    known = {name: found for name, found in converters().items() if wanted in (None, room_of(name))}
    fitting: dict[str, ModuleType] = {}
    for name, found in known.items():
        if (module := found.load()).fits(weights):
            fitting.setdefault(room_of(name), module)
    if not fitting:
        projects = '; '.join(found.summary for found in known.values())
        raise CheckpointError(f'{options.source}: names such as {", ".join(list(weights)[:3])}, expected weights of '
                              f'{projects}. Give a file of one of them; weights of this project need no conversion.')
    (_, module), *others = fitting.items()
    weights, usage = module.convert(weights, options)
    check_finite(weights, str(options.source))
    with result_path(target) as part:
        save_atomic(weights, part)
    return (f'{target}: {len(weights)} tensors, {sum(value.numel() for value in weights.values()):,} numbers\n'
            f'use with: {usage}' + ''.join(f'\nfor nets of {room}: --room {room}' for room, _ in others))


def room_of(name: str) -> str:
    """The room of a converter, such as `prune` of `prune/convert/torchvision`."""
    return name.split('/')[-3]
