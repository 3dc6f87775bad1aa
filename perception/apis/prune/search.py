"""Find the widths of a slim net for a config, a checkpoint and a budget; the body of tools/prune.py."""
import json
import logging
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor, nn

from perception.apis.config import called, load_config, names_config, need
from perception.apis.inference import dataset_type, student_of
from perception.apis.runner import write_mini_data
from perception.common.visual.charts import save_chart
from perception.prune.graph import Run
from perception.prune.report import chart, table
from perception.prune.search import PEEL, Found
from perception.registry import DATASETS, MODELS
from perception.utils.checkpoint import load_weights, save_atomic
from perception.utils.errors import ConfigError, DataError
from perception.utils.outputs import check_free, result_path
from perception.utils.structure import apply_structure


@names_config
def search(config: str | Path, checkpoint: str | Path | None, out: str | Path, ratio: float | None = None,
           value: float | None = None, kind: str | None = None, mini: bool = False, source: str | Path | None = None,
           method: str = 'peel', seed: int = 0, options: dict[str, Any] | None = None,
           weights: str | Path | None = None) -> list[str]:
    """Search the structure of a config's net and write it.

    Args:
        config: the config file; of a distillation the student is pruned. Its `prune` says how, PEEL's defaults else.
        checkpoint: of the whole net, which tells the importance; None takes weights as they are built, which tell no
            group from another, to see what a budget gives before a training.
        out: JSON file; a chart of the widths is written beside it.
        ratio: of what the whole net costs; the config's target by default.
        value: the budget as a number, instead.
        kind: what is counted: 'macs', 'params', 'activations', 'latency'.
        mini: the checkpoint was trained with `--mini`.
        source: a file that the net is run on, such as a scan; by default images of noise, or samples of the test data.
        method: 'peel', or a control: 'uniform', 'shuffled', 'slimming'.
        seed: of the shuffling.
        options: overrides of single values of the config.
        weights: checkpoint file to write the slim net to, with the weights that stay. Statistics of its batch norms
            are those of the whole net until it is trained, so that its scores before tell little.

    Returns:
        lines for people: the table, times, and the files.

    Raises:
        ConfigError: a budget or a net that cannot be.
        CheckpointError: the checkpoint does not fit.
        DataError: no data to run a sparse net on, or a file that cannot be written.
    """
    out, weights = (path and Path(path).expanduser() for path in (out, weights))
    if out.suffix != '.json':
        raise ConfigError(f'-o {out}: ends in {out.suffix!r}, expected the name of a .json file. Name one.')
    for path in filter(None, (out, weights)):
        check_free(path)
    cfg = load_config(config, mini, options)
    peel = settings(cfg, ratio, value, kind)
    model = MODELS.build(student_of(cfg))
    if checkpoint is None:
        print_log('prune: no checkpoint came, so all groups of a role count alike; search again after the training.',
                  'current', logging.WARNING)
    else:
        load_weights(model, checkpoint)
    if getattr(model, 'structure', None) is not None:
        raise ConfigError(f'{checkpoint}: a pruned net came, expected the whole one. Give the checkpoint that it was '
                          'pruned from.')
    if mini and source is None and noise_size(peel, model) is None:
        write_mini_data(cfg)
    found = find(cfg, model, peel, source, method, seed)
    with result_path(out) as part:
        Path(part).write_text(json.dumps(found.structure, indent=1))
    title = f'{cfg.experiment_name}: {found.structure["target"]["kind"]}'
    pictures = save_chart(out.with_suffix(''), chart(found.structure, title), ('.png',))
    if weights is not None:
        apply_structure(model, found.structure)
        with result_path(weights) as part:
            save_atomic(dict(state_dict=model.state_dict(), meta=dict(structure=model.structure)), part)
    rest = [f'{key}={value}' for key, value in (options or {}).items() if key.split('.')[0] != 'prune']
    rest = f' --cfg-options {shlex.join(rest)}' if rest else ''
    note = f'{weights}: scores tell little before it is trained, for its batch norms have the statistics of the whole.'
    return [*table(found.structure),
            f'graph, trial and measurement {found.seconds[0]:.2f} s, search {found.seconds[1]:.3f} s',
            ', '.join(map(str, filter(None, (out, pictures[0], weights)))) + ' were written; train it: '
            f'tools/train.py {config}{" --mini" * mini} --structure {out}{rest}',
            *([note] if weights is not None else [])]


def settings(cfg: Config, ratio: float | None = None, value: float | None = None, kind: str | None = None) -> PEEL:
    """PEEL as the config's `prune` has it, with another target where one is given."""
    part = dict(cfg.get('prune') or dict(type=PEEL))
    target = dict(part.get('target') or dict(ratio=0.5))
    if ratio is not None or value is not None:
        target.update(ratio=ratio, value=value)
    if kind is not None:
        if kind != target.get('kind', 'macs') and ratio is None and value is None:
            raise ConfigError(f'--type {kind}: the config\'s budget is one of {target.get("kind", "macs")}, expected '
                              'a budget beside another type. Give --ratio or --value too.')
        target['kind'] = kind
    return called(dict(part, target=target))


def find(cfg: Config, model: nn.Module, peel: PEEL, source: str | Path | None = None, method: str = 'peel',
         seed: int = 0) -> Found:
    """Search the structure of a net that is built; see `search`."""
    losses = loss_batches(cfg, model, peel.importance['batches']) if peel.importance['kind'] == 'taylor' else None
    return peel.search(model.eval(), runs_of(cfg, model, peel, source), losses, method, seed)


def noise_size(peel: PEEL, model: nn.Module) -> tuple[int, int] | None:
    """Of the images of noise that a net is run on; None for a net that is run on samples."""
    return peel.input_shape or getattr(model, 'input_size', None)


def runs_of(cfg: Config, model: nn.Module, peel: PEEL, source: str | Path | None = None) -> list[Run]:
    """What runs a net on one input each: a file, images of noise, or samples of the data set that the config tests on.

    Raises:
        DataError: there are no data.
    """
    if source is not None:
        return [_running(batch_of(cfg, model, source))]
    size = noise_size(peel, model)
    if size is not None:
        noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        return [_running(dict(images=noise))]
    need(cfg, 'a run of the net', 'test_dataloader')
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    count = min(peel.samples, len(dataset))
    places = [round(i * (len(dataset) - 1) / max(count - 1, 1)) for i in range(count)]
    return [_running(model.data_preprocessor(pseudo_collate([dataset[i]]), False)['inputs']) for i in places]


def batch_of(cfg: Config, model: nn.Module, source: str | Path) -> dict[str, Any]:
    """The inputs that the config's predictor gives a net for a file.

    Raises:
        DataError: it cannot be read.
    """
    need(cfg, 'a run of the net', 'predictor', 'test_dataloader')
    predictor = called(cfg.predictor, model=model.eval(),
                       data=dict(cfg.test_dataloader.dataset, type=dataset_type(cfg)))

    def catch(_: nn.Module, args: tuple, words: dict[str, Any]) -> None:
        raise _Caught(words['inputs'])

    handle = model.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        predictor(next(iter(predictor.sources(source)))[1])
    except _Caught as caught:
        return caught.args[0]
    finally:
        handle.remove()
    raise DataError(f'{source}: the net was not run on it, expected one source. Give a single file.')


class _Caught(Exception):
    """Leaves a prediction with the inputs of the net."""


def _running(inputs: dict[str, Any]) -> Run:
    return lambda net: net(inputs=inputs, mode='tensor')


def loss_batches(cfg: Config, model: nn.Module, count: int) -> Callable[[], Iterator[Tensor]]:
    """Gives the training losses of some batches, one after the other."""
    need(cfg, 'the gradient of the loss', 'train_dataloader')

    def losses() -> Iterator[Tensor]:
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        for _, data in zip(range(count), loader):
            yield model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))[0]
    return losses
