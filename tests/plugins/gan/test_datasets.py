"""Images of all kinds, a folder and an LMDB, and the sets that are made."""
import zipfile

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from perception.plugins.gan.datasets.images.reader import ImageSet, square
from perception.plugins.gan.datasets.street.mini import write_street
from perception.utils.errors import ConfigError, DataError, MissingDependency


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    save(tmp_path / '00000/grey.png', rng.integers(0, 256, (40, 60), np.uint8))
    save(tmp_path / '00000/alpha.png', rng.integers(0, 256, (64, 64, 4), np.uint8))
    save(tmp_path / '01000/deep.png', np.full((32, 32, 3), 200 * 256, np.uint16))
    save(tmp_path / '01000/small.jpg', rng.integers(0, 256, (9, 7, 3), np.uint8))
    return tmp_path


@pytest.mark.parametrize('filter', ['lanczos', 'area', 'bilinear'])
def test_images_of_any_kind_below_a_folder(folder, filter):
    data = ImageSet(folder, 32, filter)
    assert data.names == ['00000/alpha.png', '00000/grey.png', '01000/deep.png', '01000/small.jpg']
    for i in range(4):
        sample = data[i]
        assert sample['inputs']['image'].shape == (3, 32, 32) and sample['data_samples'].source == i
        assert sample['data_samples'].image_path == str(folder / data.names[i])
    assert (data[2]['inputs']['image'] == 200).all()
    assert len(ImageSet(folder, 32, first=1, count=2)) == 2


def test_a_zip_file_gives_what_its_folder_gives(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp('zip') / 'images.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
        file.writestr('dataset.json', '{"labels": null}')
        file.writestr('__MACOSX/00000/._grey.png', b'x')
        for one in sorted(folder.rglob('*.*')):
            file.write(one, one.relative_to(folder).as_posix())
    data, plain = ImageSet(path, 32), ImageSet(folder, 32)
    assert data.names == plain.names
    for loader in (data, DataLoader(data, batch_size=None, num_workers=2)):
        assert all(torch.equal(one['inputs']['image'], two['inputs']['image']) for one, two in zip(loader, plain))
    whole = path.read_bytes()
    start = whole.index(b'00000/grey.png') + 60
    path.with_name('bad.zip').write_bytes(whole[:start] + bytes(40) + whole[start + 40:])
    with pytest.raises(DataError, match=r'bad.zip: 00000/grey.png: .*Write the file again'):
        ImageSet(path.with_name('bad.zip'), 32)[1]
    path.with_name('short.zip').write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r'short.zip: no ZIP file that can be read'):
        ImageSet(path.with_name('short.zip'), 32)


def test_it_is_said_once_that_pictures_are_enlarged(folder, monkeypatch):
    said = []
    monkeypatch.setattr('perception.plugins.gan.datasets.images.reader.print_log', lambda text, *_: said.append(text))
    data = ImageSet(folder, 48)
    for i in range(4):
        data[i]
    assert len(said) == 1 and 'grey.png has 40 x 60 pixels, expected 48' in said[0]


def test_linked_folders_are_read_and_hidden_ones_are_not(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp('elsewhere')
    (folder / '01000').rename(elsewhere / '01000')
    (folder / '01000').symlink_to(elsewhere / '01000')
    save(folder / '.trash/x.png', np.zeros((8, 8), np.uint8))
    assert ImageSet(folder, 32).names == ['00000/alpha.png', '00000/grey.png', '01000/deep.png', '01000/small.jpg']


def test_every_second_image_is_mirrored(folder):
    data, plain = ImageSet(folder, 32, flip=True), ImageSet(folder, 32)
    same = [bool((data[epoch, 1]['inputs']['image'] == plain[1]['inputs']['image']).all()) for epoch in range(40)]
    assert 8 < sum(same) < 32
    turned = data[same.index(False), 1]['inputs']['image'].flip(2)
    assert (turned == plain[1]['inputs']['image']).all()


def test_the_middle_is_kept():
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 255
    assert (square(image, 10) == 255).all() and (square(image, 5, 'area') == 255).all()


def test_what_cannot_be_read(folder, tmp_path):
    (folder / '00000/broken.png').write_bytes(b'\x89PNG\r\n\x1a\n')
    data = ImageSet(folder, 32)
    with pytest.raises(DataError, match=r'broken\.png'):
        data[data.names.index('00000/broken.png')]
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='empty: 0 images'):
        ImageSet(tmp_path / 'empty', 32)
    with pytest.raises(DataError, match='no such folder'):
        ImageSet(tmp_path / 'absent', 32)
    with pytest.raises(ConfigError, match='size=3'):
        ImageSet(folder, 3)


def test_an_lmdb(tmp_path):
    lmdb = pytest.importorskip('lmdb', reason='lmdb is not installed')
    image = np.full((32, 32, 3), 90, np.uint8)
    with lmdb.open(str(tmp_path), map_size=2 ** 20) as file, file.begin(write=True) as transaction:
        for i in range(2):
            transaction.put(f'32-{i:05d}'.encode(), cv2.imencode('.jpg', image)[1].tobytes())
        transaction.put(b'length', b'3')
    data = ImageSet(tmp_path, 32)
    assert len(data) == 3 and (data[1]['inputs']['image'] == 90).all()
    loader = DataLoader(data, sampler=[0, 1], num_workers=1, collate_fn=list)  # another process opens it again
    assert all((batch[0]['inputs']['image'] == 90).all() for batch in loader)
    with pytest.raises(DataError, match='no image 32-00002'):
        data[2]
    with pytest.raises(DataError, match='images of 32 pixels, expected 64'):
        ImageSet(tmp_path, 64)


def test_an_lmdb_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'lmdb', None)
    (tmp_path / 'data.mdb').touch()
    with pytest.raises(MissingDependency, match='lmdb'):
        ImageSet(tmp_path, 32)


def test_digits_are_real_and_there(mini_set):
    data = ImageSet(mini_set('digits'), 32)
    assert len(data) == 32 and data.names[0] == '0000_0.png'


def test_vehicles_and_people(mini_set):
    pytest.importorskip('open3d', reason='open3d, which renders the toy world, is not installed')
    data = ImageSet(mini_set('ffhq'), 32)
    assert len(data) == 8 and min(float(data[i]['inputs']['image'].float().std()) for i in range(8)) > 5
    with pytest.raises(DataError, match='count=0'):
        write_street('x', count=0)
