"""Use a trained model: load it, predict, draw and save the result; tools/visualize.py.

    predictor = load('configs/lidarseg/cylinder3d_kitti.py', 'work_dirs/lidarseg/cylinder3d_kitti/model.pth')
    sample = predictor('000700.bin')
    names = np.array(predictor.meta['classes'])[sample.pred_labels]
    save_png('000700.png', predictor.draw('000700.bin', sample))

    predictor.save('label', Path('predictions'), '000700', '000700.bin', sample)

Several checkpoints vote, also of other nets, each on several views of a scan if that is wanted:

    predictor = load('configs/lidarseg/cylinder3d_kitti.py', ['a.pth', 'b.pth'], tta='flip4',
                     ensemble=[('configs/lidarseg/minkunet_kitti.py', 'c.pth')])

What a predictor takes, returns and draws is told by its class, which the config names: `predictor = dict(type=...)`,
see `perception/common/predictor.py`.
"""
import copy
import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from perception.apis.config import called, load_config, names_config, need
from perception.apis.exported import SUFFIX, ExportedNet
from perception.common.hooks.start import check_classes
from perception.common.predictor import Found, Predictor
from perception.common.visual.canvas import save_png, stacked, titled
from perception.common.visual.recording import Recording
from perception.common.visual.video import check_film, is_film, write_video
from perception.registry import DATASETS, MODELS
from perception.utils.checkpoint import load_weights
from perception.utils.checks import check_choice, check_positive, close_matches
from perception.utils.errors import ConfigError, DataError
from perception.utils.outputs import adopt, inside, part_folder
from perception.utils.paths import from_root
from perception.utils.progress import Progress
from perception.utils.structure import apply_structure, read_structure

Checkpoints = str | Path | Sequence[str | Path]


@names_config
def load(config: str | Path, checkpoint: Checkpoints | None = None, device: str | torch.device = 'auto',
         mini: bool = False, tta: str | None = None, ensemble: Sequence[tuple[str | Path, str | Path]] = (),
         options: dict[str, Any] | None = None) -> Predictor:
    """Build the predictor of a config.

    Args:
        config: the config file; of a distillation config the student predicts.
        checkpoint: `model.pth`, `student.pth` or a training checkpoint; of several the mean of probabilities decides.
            A file of tools/export.py, `model.onnx`, is run by ONNX Runtime where the net sees single images. None
            builds no model: sources and labels can be drawn.
        device: such as `'cuda:1'`; `'auto'` takes the GPU where there is one.
        mini: build what `--mini` trained.
        tta: mode of test-time augmentation, None for none.
        ensemble: config and checkpoint of further models that take part, of other nets too.
        options: overrides of single values of the config, such as `{'model.width': 0.64}`.

    Returns:
        the predictor; `predictor.model` is in evaluation mode, `predictor.meta` describes the data set.

    Raises:
        ConfigError, CheckpointError: they cannot be read or do not fit each other.
    """
    cfg = load_config(config, mini, options)
    need(cfg, 'predicting', 'predictor', 'test_dataloader')
    augment_data(cfg, tta)
    model = None
    if checkpoint is not None:
        model = MODELS.build(student_of(cfg))
        if cfg.get('structure'):
            apply_structure(model, read_structure(from_root(cfg.structure)), str(cfg.structure))
        model = combine(cfg, model, checkpoint, ensemble, tta, mini)
        model = model.to(pick_device(device)).eval()
    return called(cfg.predictor, model=model, data=dict(cfg.test_dataloader.dataset, type=dataset_type(cfg)))


def pick_device(device: str | torch.device = 'auto') -> torch.device:
    """The device of a name, for `'auto'` the GPU where there is one.

    Raises:
        ConfigError: no such device here.
    """
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ['cpu', *(f'cuda:{i}' for i in range(torch.cuda.device_count()))]
        raise ConfigError(f'--device {device}: not usable here ({str(error).splitlines()[0][:80]}), expected one of '
                          f'auto, {", ".join(there)}. Leave it out to take the GPU where there is one.') from error
    return found


def student_of(cfg: Config) -> dict:
    """Config of the net that is tested: the student of a distillation, else the model itself."""
    return cfg.model.get('student') or cfg.model


def dataset_type(cfg: Config) -> type:
    """Class of the data set that a config tests on."""
    kind = cfg.test_dataloader.dataset.type
    return DATASETS.get(kind) if isinstance(kind, str) else kind


def describe(cfg: Config) -> dict[str, Any]:
    """How the data set that a config tests on describes itself, such as its `classes`."""
    kind = dataset_type(cfg)
    return kind.describe(cfg.test_dataloader.dataset) if hasattr(kind, 'describe') else {}


def combine(cfg: Config, net: nn.Module, checkpoints: Checkpoints,
            ensemble: Sequence[tuple[str | Path, str | Path]] = (), tta: str | None = None,
            mini: bool = False) -> nn.Module:
    """Load weights into a net; several checkpoints, further models and augmented views make one model that votes.

    Args:
        cfg: the config of the net, of the data and of the augmentation.
        net: built from it; takes the first checkpoint.
        checkpoints: of this net, at least one.
        ensemble: config and checkpoint of further models.
        tta: mode of test-time augmentation, which each model gets.
        mini: the further models were trained with `--mini` too.

    Returns:
        the net itself where it is alone and without augmentation.

    Raises:
        ConfigError, CheckpointError: see `load`.
    """
    checkpoints = [checkpoints] if isinstance(checkpoints, (str, Path)) else list(checkpoints)
    check_vote(cfg, checkpoints, ensemble, tta)
    nets = [_with_weights(one, checkpoint)
            for one, checkpoint in zip([net, *(copy.deepcopy(net) for _ in checkpoints[1:])], checkpoints)]
    check_classes(net, describe(cfg).get('classes'), f'the test data ({dataset_type(cfg).__name__})', student_of(cfg))
    nets += [_member(cfg, config, checkpoint, mini) for config, checkpoint in ensemble]
    if tta:
        nets = [called(cfg.tta_model, model=one, mode=tta) for one in nets]
    return nets[0] if len(nets) == 1 else called(cfg.ensemble_model, models=nets)


def check_vote(cfg: Config, checkpoints: Sequence[str | Path], ensemble: Sequence[tuple[str | Path, str | Path]] = (),
               tta: str | None = None) -> None:
    """See that a config names what `combine` needs, before any work is done.

    Raises:
        ConfigError: it does not, or no checkpoint came.
    """
    if not checkpoints:
        raise ConfigError(f'{cfg.filename}: no checkpoint came, expected at least one. Name a model.pth.')
    if tta:
        need(cfg, '--tta', 'tta_model')
    for path in (*checkpoints, *(path for _, path in ensemble)):
        if tta and str(path).lower().endswith(SUFFIX):
            raise ConfigError(f'--tta {tta}: {path} came, expected a checkpoint, since an exported file sees images of '
                              'one size. Leave one of them out.')
    if len(checkpoints) > 1 or ensemble:
        need(cfg, f'a vote of {len(checkpoints) + len(ensemble)} models', 'ensemble_model')


def augment_data(cfg: Config, tta: str | None) -> None:
    """Have the tested data set give what test-time augmentation wants to see, by the config's `tta_dataset`."""
    if tta and cfg.get('tta_dataset'):
        cfg.test_dataloader.dataset.update(cfg.tta_dataset)


def _with_weights(net: nn.Module, checkpoint: str | Path) -> nn.Module:
    """The net with the weights of a checkpoint, or what runs an exported file in its place."""
    if str(checkpoint).lower().endswith(SUFFIX):
        return ExportedNet(net, checkpoint)
    load_weights(net, checkpoint)
    return net


def _member(cfg: Config, config: str | Path, checkpoint: str | Path, mini: bool) -> nn.Module:
    """A further model of an ensemble, which must know the same classes."""
    other = load_config(config, mini)
    ours, theirs = (tuple(describe(one).get('classes', ())) for one in (cfg, other))
    if theirs != ours:
        raise ConfigError(f'--ensemble {other.filename}: {len(theirs)} classes of {dataset_type(other).__name__}, '
                          f'expected the {len(ours)} of {dataset_type(cfg).__name__} as in {cfg.filename}. Take '
                          'configs of one data set and task.')
    return _with_weights(MODELS.build(student_of(other)), checkpoint)


def parse_members(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Config and checkpoint of each `CONFIG:CHECKPOINT`.

    Raises:
        ConfigError: a text without a colon between two paths.
    """
    pairs = [text.rpartition(':') for text in texts]
    for text, (config, _, checkpoint) in zip(texts, pairs):
        if not config or not checkpoint:
            raise ConfigError(f'--ensemble {text}: no colon between two paths, expected CONFIG:CHECKPOINT such as '
                              'configs/lidarseg/minkunet_kitti.py:work_dirs/lidarseg/minkunet_kitti/model.pth. Further '
                              'checkpoints of the first config follow it without --ensemble.')
    return [(config, checkpoint) for config, _, checkpoint in pairs]


def flag_options(config: str | Path, flags: dict[str, str], known: Iterable[str]) -> dict[str, str]:
    """Options of the predictor of a config, for flags that a tool itself does not know.

    Args:
        config: the config file.
        flags: name and value of each, such as `{'columns': 'x,y,z,i,ring'}`.
        known: names of the tool's own flags, for the message.

    Returns:
        such as `{'predictor.columns': 'x,y,z,i,ring'}`.

    Raises:
        ConfigError: the predictor has no such option.
    """
    if not flags:
        return {}
    cfg = load_config(config)
    need(cfg, 'predicting', 'predictor')
    kind = cfg.predictor.type
    own = list(dict.fromkeys(name for owner in kind.__mro__ if '__init__' in owner.__dict__
                             for name in list(inspect.signature(owner.__init__).parameters)[1:]))
    own = [name for name in own if name not in ('model', 'data', 'args', 'kwargs')]
    for name in flags:
        if name not in own:
            options = ', '.join(f'--{other}' for other in own) or 'none'
            raise ConfigError(f'--{name}: unknown, expected an option of this tool or of {kind.__name__} ({options}). '
                              f'{close_matches(name, [*own, *known])}')
    return {f'predictor.{name}': value for name, value in flags.items()}


def visualize(config: str | Path, source: str | Path, out: str | Path | None = None,
              checkpoint: Checkpoints | None = None, labels: str | Path | None = None, view: str = 'plain',
              against: str | Path | None = None, mini: bool = False, show: bool = False, num_colors: int | None = None,
              fps: float | None = None, tta: str | None = None,
              ensemble: Sequence[tuple[str | Path, str | Path]] = (), options: dict[str, Any] | None = None,
              save: str | Path | None = None, save_as: Sequence[str] = (), batch: int = 1,
              device: str | torch.device = 'auto', viewer: str | None = None,
              progress: bool = False) -> Iterator[Path]:
    """Draw a file, or everything in a folder or a video, with predictions of a model, labels, or both; or save them.

    What cannot be read is left out and named at the end. No file is replaced that was not made so.

    Args:
        config: whose data set the source and its labels are of.
        source: a scan, an image, a video, a folder of them: what the config's predictor reads.
        out: folder of the pictures, `<name>.png`, or a film (`.mp4`, `.mov`, `.mkv`, `.avi`, `.gif`) to put them in;
            of a viewer its recording.
        checkpoint, tta, ensemble, options, device: the model, see `load`; without a checkpoint no predictions are
            drawn.
        labels: the truth, a file or a folder; see the predictor.
        view: kind of picture, one of the predictor's `views`.
        against: an earlier checkpoint whose picture is drawn above each.
        mini: the checkpoints were trained with `--mini`.
        show: also open a window for each, where there is a display.
        num_colors: reduce each picture to a palette of so many colours.
        fps: frames per second of a film; what the predictor's `rate` says by default.
        save: folder of the predictions as files.
        save_as: kinds of these files, of the predictor's `saves`; its first by default.
        batch: how many are predicted at once.
        viewer: 'rerun' opens the viewer, or writes a recording where `out` is an `.rrd` file.
        progress: tell on standard error how far it is.

    Yields:
        each picture or file just written; a video or a recording at the end.

    Raises:
        ConfigError: nothing was asked for, something that the predictor does not have, or what needs a checkpoint
            without one.
        DataError: something could not be read, at the end, or cannot be written.
    """
    out = None if out is None else Path(out).expanduser()
    film = viewer is None and out is not None and is_film(out)
    _check_outputs(out, save, save_as, viewer, show)
    if checkpoint is None and (against or tta or ensemble or save):
        raise ConfigError('visualize: no checkpoint came, expected one beside --against, --tta, --ensemble or --save. '
                          'Name it after the config.')
    check_positive('--batch', batch=batch)
    if film:
        if out.exists() and Path(source).expanduser().exists() and out.samefile(Path(source).expanduser()):
            raise DataError(f'--out {out}: the source itself, expected another file for the film that is made of it. '
                            'Choose another name.')
        check_film(out, 10.0 if fps is None else fps)
    predictor = load(config, checkpoint, device, mini, tta, ensemble, options)
    check_choice('--view', view, predictor.views)
    forms = list(dict.fromkeys(save_as)) or list(predictor.saves[:1]) if save else []
    for form in forms:
        check_choice('--save-as', form, predictor.saves)
    if save and not forms:
        raise ConfigError(f'--save: {type(predictor).__name__} has no files for predictions, expected a predictor with '
                          '`saves`. Draw them by --out.')
    if out is not None and viewer is None and not film:
        _check_folder(Path(out), Path(source), predictor)
    before = load(config, against, device, mini, options=options) if against else None
    with ExitStack() as stack:
        counter = Progress(predictor.noun, progress)
        stack.callback(counter.close)
        work = Work(predictor, before, view, source, forms, None if save is None else Path(save).expanduser(), show,
                    counter)
        if save:
            work.part = stack.enter_context(part_folder(work.save / 'predictions'))
        if viewer:
            work.recording = stack.enter_context(Recording(out, Path(source).name))
        done = work.run(labels, batch, draw=out is not None and viewer is None)
        if film:
            yield from work.film(done, Path(out), predictor.rate(source) if fps is None else fps)
        else:
            for found, picture, files in done:
                if picture is not None:
                    files = [save_png(_target(Path(out), f'{found.name}.png', found), picture, num_colors), *files]
                counter.clear()
                yield from files
    if viewer and out is not None:
        yield Path(out)
    work.tell_failures()


def _check_outputs(out: str | Path | None, save: str | Path | None, save_as: Sequence[str], viewer: str | None,
                   show: bool) -> None:
    """See that what was asked for makes sense, before anything is loaded."""
    if out is None and save is None and viewer is None and not show:
        raise ConfigError('visualize: neither pictures nor files were asked for, expected --out DIR for pictures, '
                          '--save DIR for predictions as files, or both. Add one.')
    if save_as and save is None:
        raise ConfigError(f'--save-as {" ".join(save_as)}: no folder came for it, expected --save DIR. Add it.')
    if viewer is not None:
        check_choice('--viewer', viewer, ['rerun'])
        if out is not None and Path(out).suffix != '.rrd':
            raise ConfigError(f'--out {out}: came with --viewer rerun, expected a recording that ends in .rrd. Leave '
                              '--out away to open the viewer, or --viewer to draw pictures.')
    elif out is not None and Path(out).suffix == '.rrd':
        raise ConfigError(f'--out {out}: a recording of Rerun, expected --viewer rerun with it. Add that.')


def _check_folder(out: Path, source: Path, predictor: Predictor) -> None:
    """See that pictures will not be taken for sources when the same command runs again.

    Raises:
        DataError: they are to lie among images.
    """
    if '.png' in predictor.reads and source.is_dir() and out.is_dir() and out.samefile(source):
        raise DataError(f'--out {out}: the folder of the images themselves, expected another one for their pictures, '
                        'which would be taken for images the next time. Choose another folder.')


def _target(folder: Path, name: str, found: Found) -> Path:
    """A file of results that is not the source itself.

    Raises:
        DataError: it is, or its name leads out of the folder.
    """
    path = inside(folder, name)
    if isinstance(found.source, (str, Path)) and path.exists() and path.samefile(found.source):
        raise DataError(f'{path}: the source itself, expected another place for what is made of it. Choose another '
                        'folder.')
    return path


@dataclass
class Work:
    """Draws, saves and logs what a predictor finds; what fails is noted and the rest goes on.

    Attributes:
        predictor: of the model.
        before: of an earlier checkpoint, whose picture stands above each.
        view: kind of picture.
        source: file or folder.
        forms: kinds of files that are saved.
        save: their folder.
        show: also open windows.
        progress: counts what is done.
        recording: for a viewer.
        part: folder in which files are written before they get their place.
        failures: name and error of what could not be read or drawn.
    """

    predictor: Predictor
    before: Predictor | None
    view: str
    source: str | Path
    forms: list[str]
    save: Path | None
    show: bool
    progress: Progress
    recording: Recording | None = None
    part: Path | None = None
    failures: list[tuple[str, DataError]] = field(default_factory=list)

    def run(self, labels: str | Path | None, batch: int,
            draw: bool) -> Iterator[tuple[Found, np.ndarray | None, list[Path]]]:
        """What was found, its picture where one is wanted, and the files that were saved."""
        for predictor in filter(None, (self.before, self.predictor)):
            predictor.begin(self.source, self.view)
        for found in self.predictor.results(self.source, labels, batch):
            self.progress.step()
            try:
                if found.error is not None:
                    raise found.error
                picture = self.picture(found) if draw or self.show else None
                if self.recording is not None:
                    self.recording.at(found.name)
                    self.predictor.log(self.recording, found)
            except DataError as error:
                self.failures.append((found.name, error))
                continue
            files = []
            if self.part is not None:
                inside(self.part, found.name).parent.mkdir(parents=True, exist_ok=True)
            for form in self.forms:
                file = self.predictor.save(form, self.part, found.name, found.source, found.sample)
                files.append(adopt(file, _target(self.save, file.relative_to(self.part).as_posix(), found)))
            self.show = self.show and self.predictor.shown(picture, found)
            yield found, picture if draw else None, files

    def picture(self, found: Found) -> np.ndarray:
        """The picture of a source, below that of the earlier checkpoint if there is one."""
        after = self.predictor.view(self.view, found.source, found.sample, found.truth, found.name)
        if self.before is None:
            return after
        sample = self.before(found.source)
        return above(self.before.view(self.view, found.source, sample, found.truth, found.name), after)

    def film(self, done: Iterator[tuple[Found, np.ndarray, list[Path]]], path: Path, rate: float) -> Iterator[Path]:
        """Write the pictures as a film; yields the files that were saved meanwhile, then the film."""
        saved, first = [], next(done, None)
        if first is None:
            return
        frames = (saved.extend(files) or picture for _, picture, files in itertools.chain([first], done))
        film = write_video(path, frames, rate)
        yield from [*saved, film]

    def tell_failures(self) -> None:
        """Say at the end what was left out.

        Raises:
            DataError: something was.
        """
        if not self.failures:
            return
        if self.progress.done == 1:
            raise self.failures[0][1]
        noun, lines = self.predictor.noun, [f'  {name}: {error}' for name, error in self.failures]
        head = f'{self.source}: {len(lines):,} of {self.progress.done:,} {noun}s could not be read or drawn'
        raise DataError('\n'.join([f'{head}, expected all; the others are done. Mend or remove these:', *lines]))


def above(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The picture of an earlier checkpoint above that of a later one, (H, W, 3) uint8 RGB."""
    return stacked([titled(before, 'before'), titled(after, 'after')])
