"""Checkpoints are plain, whole and harmless, and weights load completely or with a reason."""
import errno
import os
import pickle
import resource
import signal
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import load_checkpoint as mmengine_load_checkpoint
from torch import nn

from perception.utils.checkpoint import (
    atomic_path,
    load_checkpoint,
    load_weights,
    newest_checkpoint,
    save_atomic,
    start_from,
    to_plain,
    weights_of,
)
from perception.utils.errors import CheckpointError


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def model(width=4, outputs=3):
    return nn.Sequential(OrderedDict(stem=nn.Linear(5, width), norm=nn.BatchNorm1d(width),
                                     head=nn.Linear(width, outputs)))


class Student(nn.Module):
    """A distiller as the loader sees it."""

    def __init__(self):
        super().__init__()
        self.student = model()
        self.losses = nn.ModuleDict(dict(kd=nn.Linear(2, 2)))


# --- plain values ---
def test_to_plain_round_trips_through_the_safe_loader(tmp_path):
    value = dict(a=np.float64(1.5), b=[np.int64(2), (np.bool_(True), None)], c=np.arange(3), d=ConfigDict(e='x'),
                 f=OrderedDict(w=torch.ones(2)), g=Counter(a=2), h={1, 2}, i=Path('x/y'), j=nn.Parameter(torch.ones(1)))
    save_atomic(value, tmp_path / 'x.pth')
    loaded = load_checkpoint(tmp_path / 'x.pth')
    assert loaded['a'] == 1.5 and type(loaded['a']) is float
    assert loaded['b'] == [2, (True, None)] and type(loaded['b'][0]) is int
    assert loaded['c'] == [0, 1, 2] and type(loaded['d']) is dict and loaded['g'] == Counter(a=2)
    assert loaded['h'] == {1, 2} and loaded['i'] == 'x/y' and type(loaded['j']) is torch.Tensor
    assert type(loaded['f']) is OrderedDict


def test_to_plain_keeps_the_version_metadata_of_a_state_dict():
    state = model().state_dict()
    assert to_plain(dict(state_dict=state))['state_dict']._metadata == state._metadata


@pytest.mark.parametrize('bad', [HistoryBuffer(), lambda: 0, object(), torch.nn.ReLU()])
def test_to_plain_names_what_has_no_plain_form(bad):
    with pytest.raises(CheckpointError, match=r'x\.y\[1\]: a .*expected tensors and plain Python values'):
        to_plain(dict(y=[1, bad]), 'x')


# --- writing ---
def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'model.pth'
    save_atomic(dict(a=torch.zeros(3)), path)
    with pytest.raises(ZeroDivisionError), atomic_path(path) as part:
        part.write_bytes(b'half')
        _ = 1 / 0
    assert load_checkpoint(path)['a'].tolist() == [0, 0, 0]
    assert os.listdir(tmp_path) == ['model.pth']


@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_a_full_disk_is_said_and_harms_nothing(tmp_path, monkeypatch, call):
    path = tmp_path / 'model.pth'
    save_atomic(dict(a=torch.zeros(3)), path)

    def full(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, call, full)
    with pytest.raises(CheckpointError, match=r'model.pth: writing failed \(No space left on device\).*Free some space '
                                              r'\(\d+ MiB are left there\); files written before are intact'):
        save_atomic(dict(a=torch.ones(3)), path)
    monkeypatch.undo()
    assert load_checkpoint(path)['a'].tolist() == [0, 0, 0]
    assert os.listdir(tmp_path) == ['model.pth']


def test_a_write_that_the_system_cuts_off_is_said_and_harms_nothing(tmp_path):
    path = tmp_path / 'model.pth'
    save_atomic(dict(a=torch.zeros(3)), path)
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(CheckpointError, match='writing failed .*expected room for the whole file'):
            save_atomic(dict(a=torch.ones(100_000)), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert load_checkpoint(path)['a'].tolist() == [0, 0, 0]
    assert os.listdir(tmp_path) == ['model.pth']


# --- reading ---
@pytest.mark.parametrize('wrap', [lambda bomb: bomb, lambda bomb: dict(state_dict=dict(w=torch.ones(1)), meta=bomb)])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_malicious_pickle_is_refused_and_executes_nothing(tmp_path, wrap, zipped):
    harm = tmp_path / 'harm'
    torch.save(wrap(Bomb(harm)), tmp_path / 'evil.pth', _use_new_zipfile_serialization=zipped)
    loaders = (load_checkpoint, CheckpointLoader.load_checkpoint,
               lambda path: load_weights(model(), path), lambda path: mmengine_load_checkpoint(model(), str(path)))
    for loader in loaders:
        with pytest.raises(CheckpointError, match='evil.pth: .*refused|evil.pth: unreadable'):
            loader(str(tmp_path / 'evil.pth'))
    assert not harm.exists()
    torch.load(tmp_path / 'evil.pth', weights_only=False)  # the bomb is a real one
    assert harm.exists()


def test_a_plain_pickle_file_is_refused_and_executes_nothing(tmp_path):
    harm = tmp_path / 'harm'
    (tmp_path / 'evil.pth').write_bytes(pickle.dumps(Bomb(harm)))
    with pytest.raises(CheckpointError, match='evil.pth'):
        load_checkpoint(tmp_path / 'evil.pth')
    assert not harm.exists()


@pytest.mark.parametrize('address', ['https://x.org/a.pth', 'http://x.org/a.pth', 's3://a/b.pth', 'torchvision://r50',
                                     'open-mmlab://r50', 'modelzoo://r50', 'mmcls://r50', 'pavi://r50'])
def test_remote_addresses_are_refused(address):
    for loader in (load_checkpoint, CheckpointLoader.load_checkpoint):
        with pytest.raises(CheckpointError, match='remote address came, expected a local file'):
            loader(address)
    with pytest.raises(CheckpointError, match='remote address came'):
        load_checkpoint(Path(address))  # which has one slash less


@pytest.mark.parametrize('content', [b'', b'not a checkpoint', b'\x00' * 1000, b'PK\x03\x04 broken zip'])
def test_unreadable_files_are_named(tmp_path, content):
    (tmp_path / 'x.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match=r'x.pth: unreadable .*expected a file of torch.save'):
        load_checkpoint(tmp_path / 'x.pth')


def test_a_truncated_file_is_unreadable(tmp_path):
    save_atomic(model().state_dict(), tmp_path / 'x.pth')
    data = (tmp_path / 'x.pth').read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / 'x.pth').write_bytes(data[:int(share * len(data))])
        with pytest.raises(CheckpointError, match='unreadable'):
            load_checkpoint(tmp_path / 'x.pth')


def test_a_missing_file_shows_its_neighbours(tmp_path):
    save_atomic({}, tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match=r'model.pth/x.pth: no folder can be made for it \(File exists'):
        save_atomic({}, tmp_path / 'model.pth/x.pth')
    with pytest.raises(CheckpointError, match='a folder came, expected a checkpoint. That folder holds model.pth'):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match='modle.pth: no such file.*holds model.pth'):
        load_checkpoint(tmp_path / 'modle.pth')


def test_something_else_than_a_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='a list came, expected a dict of weights'):
        load_checkpoint(tmp_path / 'x.pth')


def test_newest_checkpoint_goes_by_step_and_skips_damaged_files(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, [])
    for age, name in ((30, 'epoch_10.pth'), (20, 'epoch_9.pth'), (10, 'epoch_2.pth'), (0, 'model.pth')):
        save_atomic(dict(a=1), tmp_path / name)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))  # a copied folder has any times
    assert newest_checkpoint(tmp_path) == (tmp_path / 'epoch_10.pth', [])
    (tmp_path / 'epoch_10.pth').write_bytes(b'')
    path, problems = newest_checkpoint(tmp_path)
    assert path == tmp_path / 'epoch_9.pth' and len(problems) == 1 and 'epoch_10.pth: unreadable' in problems[0]


def same(a, b):
    """Equal nested tensors and values, NaN too."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_a_flipped_bit_is_refused_wherever_it_matters(tmp_path):
    value = dict(state_dict=model().state_dict(), meta=dict(epoch=3, iter=18))
    save_atomic(value, tmp_path / 'epoch_3.pth')
    save_atomic(value, tmp_path / 'epoch_2.pth')
    data, rng, refused = (tmp_path / 'epoch_3.pth').read_bytes(), np.random.default_rng(0), 0
    whole = load_checkpoint(tmp_path / 'epoch_2.pth')
    for place in rng.permutation(len(data))[:300]:
        bad = bytearray(data)
        bad[place] ^= 1 << rng.integers(8)
        (tmp_path / 'epoch_3.pth').write_bytes(bad)
        try:
            assert same(load_checkpoint(tmp_path / 'epoch_3.pth'), whole)  # in padding
        except CheckpointError:
            refused += 1
    assert refused > 150
    weight = data.index(value['state_dict']['head.weight'].numpy().tobytes())
    (tmp_path / 'epoch_3.pth').write_bytes(data[:weight] + bytes([data[weight] ^ 1]) + data[weight + 1:])
    with pytest.raises(CheckpointError, match=r'epoch_3.pth: damaged \(Bad CRC-32'):
        load_checkpoint(tmp_path / 'epoch_3.pth', mmap=True)
    path, problems = newest_checkpoint(tmp_path)
    assert path == tmp_path / 'epoch_2.pth' and len(problems) == 1 and 'damaged' in problems[0]


def test_newest_checkpoint_leaves_out_weights_that_are_no_numbers_and_knows_both_names(tmp_path):
    bad = {k: v * float('nan') if v.is_floating_point() else v for k, v in model().state_dict().items()}
    for name, weights, step in (('epoch_2', model().state_dict(), 12), ('epoch_3', bad, 18),
                                ('iter_10', model().state_dict(), 10)):
        save_atomic(dict(state_dict=weights, meta=dict(iter=step)), tmp_path / f'{name}.pth')
    path, problems = newest_checkpoint(tmp_path)
    assert path == tmp_path / 'epoch_2.pth' and len(problems) == 1 and '8 of 9 weights are not finite' in problems[0]
    save_atomic(dict(state_dict=model().state_dict(), meta=dict(iter=15)), tmp_path / 'iter_15.pth')
    assert newest_checkpoint(tmp_path)[0] == tmp_path / 'iter_15.pth'


def test_a_file_with_compressed_parts_is_refused_unread(tmp_path):
    save_atomic(dict(a=torch.zeros(1000)), tmp_path / 'x.pth')
    with zipfile.ZipFile(tmp_path / 'x.pth') as old, zipfile.ZipFile(tmp_path / 'y.pth', 'w') as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r'^[^:]*y.pth: a compressed archive came'):
        load_checkpoint(tmp_path / 'y.pth')


# --- weights into models ---
def randomised(module):
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_()
    return module


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: dict(state_dict=s, meta=dict(epoch=3), optimizer={}),
                                  lambda s: {f'module.{k}': v for k, v in s.items()}])
def test_load_weights_takes_training_checkpoints_and_plain_ones(tmp_path, wrap):
    trained, fresh = randomised(model()), model()
    save_atomic(wrap(trained.state_dict()), tmp_path / 'x.pth')
    load_weights(fresh, tmp_path / 'x.pth')
    assert equal(fresh.state_dict(), trained.state_dict())


def test_load_weights_between_distiller_and_student():
    trained = randomised(Student())
    bare = model()
    load_weights(bare, dict(state_dict=trained.state_dict()))
    assert equal(bare.state_dict(), trained.student.state_dict())
    fresh = Student()
    load_weights(fresh, bare.state_dict())
    assert equal(fresh.student.state_dict(), bare.state_dict())
    fresh = Student()
    load_weights(fresh, trained.state_dict())
    assert equal(fresh.state_dict(), trained.state_dict())


def test_weights_that_do_not_fit_are_listed_and_nothing_is_loaded():
    ours, before = model(), {k: v.clone() for k, v in model().state_dict().items()}
    ours.load_state_dict(before)
    theirs = model(width=6).state_dict()
    del theirs['head.bias']
    theirs['neck.weight'] = torch.ones(1)
    with pytest.raises(CheckpointError) as error:
        load_weights(ours, theirs)
    text = str(error.value)
    for part in ('1 missing (head.bias)', '1 unexpected (neck.weight)', 'mis-shaped (stem.weight (6, 5) for (4, 5)',
                 'of 9 weights of Sequential'):
        assert part in text
    assert equal(ours.state_dict(), before)


def test_a_wrong_class_count_is_named():
    with pytest.raises(CheckpointError, match='of it has 17 outputs, that of the model 3: .*num_classes'):
        load_weights(model(), model(outputs=17).state_dict())


def test_a_wrong_width_is_no_class_count():
    with pytest.raises(CheckpointError, match='The widths differ'):
        load_weights(model(), model(width=8).state_dict())


def test_averaged_weights_load_under_the_names_they_are_saved_by():
    trained = randomised(model())
    averaged = {'steps': torch.tensor(3), **{f'module.{k}': v for k, v in trained.state_dict().items()}}
    for checkpoint in (averaged, dict(ema_state_dict=averaged), dict(ema_state_dict=averaged, meta={})):
        fresh = model()
        load_weights(fresh, checkpoint)
        assert equal(fresh.state_dict(), trained.state_dict())
    load_weights(fresh, dict(state_dict=trained.state_dict(), ema_state_dict={k: v * 0 for k, v in averaged.items()}))
    assert equal(fresh.state_dict(), trained.state_dict())


def test_an_infinity_is_no_fault_in_a_buffer_that_may_hold_one():
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer('mask', torch.tensor([0.0, -torch.inf]))

    load_weights(Masked(), Masked().state_dict())
    with pytest.raises(CheckpointError, match=r'1 of 3 weights are not finite \(mask\)'):
        load_weights(Masked(), dict(Masked().state_dict(), mask=torch.tensor([0.0, torch.nan])))


def test_start_from_counts_what_fits():
    trained, ours = randomised(model()), model(outputs=5)
    head = ours.head.weight.clone()
    assert start_from(ours, trained.state_dict()) == ('checkpoint: 7 of 9 weights loaded; new: head.weight, head.bias.')
    assert torch.equal(ours.stem.weight, trained.stem.weight) and torch.equal(ours.head.weight, head)
    distiller = Student()
    text = start_from(distiller, {**trained.state_dict(), 'extra': torch.ones(1)})
    assert text == 'checkpoint: 9 of 9 weights of the student loaded; not used: extra.'
    assert torch.equal(distiller.student.stem.weight, trained.stem.weight)
    for theirs in (model(width=8).state_dict(), {f'x.{k}': v for k, v in trained.state_dict().items()}):
        with pytest.raises(CheckpointError, match='of 9 weights of Sequential, expected the same'):
            start_from(model(), theirs)


@pytest.mark.parametrize('key', ['cylinder_3d_spconv_seg.downCntx.conv1.weight', 'module.cylinder_3d_generator.x'])
def test_released_checkpoints_point_to_the_converter(key):
    with pytest.raises(CheckpointError, match=r'spconv 1 / PVKD checkpoint.*tools/convert_checkpoint.py'):
        load_weights(model(), {key: torch.ones(1)})


@pytest.mark.parametrize('nothing', [{}, dict(state_dict={}), dict(epoch=3, lr=0.1), dict(a=torch.ones(1), b='x')])
def test_a_dict_without_weights_is_refused(nothing):
    with pytest.raises(CheckpointError, match='no weights among its keys'):
        weights_of(nothing)
