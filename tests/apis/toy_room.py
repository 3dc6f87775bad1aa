"""A data set, a model and a metric so small that a whole training takes a second."""
import json
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import BaseDataElement
from torch import nn

from perception.common.predictor import Predictor
from perception.common.results import StoredResults
from perception.utils.errors import DataError
from perception.utils.paths import data_path

NUM_FEATURES, NUM_CLASSES = 6, 3


class ToyDataset(torch.utils.data.Dataset):
    """Feature vectors with classes; training samples get noise drawn from (seed, epoch, index)."""

    METAINFO = dict(classes=('a', 'b', 'c'), palette=np.eye(3))
    metainfo = METAINFO

    @classmethod
    def describe(cls, config):
        return getattr(cls, 'METAINFO', {})

    def __init__(self, size=22, seed=3, noise=0.3):
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(0, NUM_CLASSES, size)
        centres = np.random.default_rng(0).normal(size=(NUM_CLASSES, NUM_FEATURES))
        self.feats = (centres[self.labels] + rng.normal(size=(size, NUM_FEATURES))).astype(np.float32)
        self.seed, self.noise = seed, noise

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, item):
        epoch, index = item if isinstance(item, tuple) else (None, item)
        feats = self.feats[index]
        if epoch is not None:
            noise = np.random.default_rng([self.seed, epoch, index]).normal(size=NUM_FEATURES)
            feats = feats + self.noise * noise.astype(np.float32)
        sample = BaseDataElement(metainfo=dict(sample_id=int(index)), label=int(self.labels[index]))
        return dict(inputs=torch.as_tensor(feats), data_samples=sample)


class ToyModel(BaseModel):
    """A perceptron with batch normalisation and dropout, so that buffers and random states matter."""

    def __init__(self, width=8, num_classes=NUM_CLASSES, dropout=0.2):
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        self.backbone = nn.Sequential(nn.Linear(NUM_FEATURES, width), nn.BatchNorm1d(width), nn.ReLU(),
                                      nn.Dropout(dropout))
        self.head = nn.Linear(width, num_classes)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.head(self.backbone(torch.stack(list(inputs))))
        if mode == 'tensor':
            return dict(logits=logits)
        if mode == 'loss':
            labels = torch.tensor([sample.label for sample in data_samples], device=logits.device)
            return dict(loss_ce=nn.functional.cross_entropy(logits, labels))
        for sample, row in zip(data_samples, logits):
            sample.pred = int(row.argmax())
        return data_samples


class ToyMetric(BaseMetric):
    """Share of right answers, from integer counts."""

    default_prefix = 'toy'

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            self.results.append(int(sample['pred'] == sample['label']))

    def compute_metrics(self, results):
        return dict(accuracy=100 * sum(results) / len(results), count=len(results))


class ToySubmission(ToyMetric):
    """Writes the answers of the test split to a file."""

    def __init__(self, out_dir):
        super().__init__()
        self.out_dir = out_dir

    def process(self, data_batch, data_samples):
        self.results += [(sample['sample_id'], sample['pred']) for sample in data_samples]

    def compute_metrics(self, results):
        Path(self.out_dir).mkdir(parents=True, exist_ok=True)
        Path(self.out_dir, 'answers.txt').write_text('\n'.join(f'{i} {p}' for i, p in results))
        return dict(written=len(results))


class ToyResults(StoredResults):
    """Answers of a JSON object of samples."""

    def read(self, path):
        return {int(name): dict(pred=answer) for name, answer in json.loads(path.read_text()).items()}


class ToyVote(nn.Module):
    """The members' mean decides."""

    def __init__(self, models):
        super().__init__()
        self.models = nn.ModuleList(models)

    def test_step(self, data):
        inputs = torch.stack(list(data['inputs']))
        logits = sum(model(inputs)['logits'] for model in self.models)
        for sample, row in zip(data['data_samples'], logits):
            sample.pred = int(row.argmax())
        return data['data_samples']


class ToyTTA(BaseModel):
    """Averages the logits with those of the mirrored input."""

    def __init__(self, model, mode):
        super().__init__(data_preprocessor=model.data_preprocessor)
        self.model, self.mode = model, mode

    def forward(self, inputs, data_samples=None, mode='predict'):
        inputs = torch.stack(list(inputs))
        logits = self.model(inputs)['logits'] + self.model(-inputs)['logits']
        for sample, row in zip(data_samples, logits):
            sample.pred = int(row.argmax())
        return data_samples


def write_toy_data(root, size=3, seed=0, force=False):
    """A mini-data writer that only counts its calls."""
    root = data_path(root)
    root.mkdir(parents=True, exist_ok=True)
    calls = root / 'calls.txt'
    calls.write_text((calls.read_text() if calls.exists() else '') + f'{size}\n')
    return root


def draw_toy_sheet(root, path):
    """A contact sheet that says what it shows."""
    path.write_text(str(root))
    return path


class ToyPredictor(Predictor):
    """Reads feature vectors from text files, draws them as bars; a second view is the same upside down.

    `factor` is an option of prediction: the features are multiplied by it.
    """

    noun = 'vector'
    reads = ('.txt', '.dat')
    views = ('plain', 'flipped')
    saves = ('class', 'npy')

    def __init__(self, model, data, factor=1.0):
        super().__init__(model, data)
        self.factor, self.batches = factor, []

    def read(self, source):
        try:
            return torch.tensor([self.factor * float(word) for word in Path(source).read_text().split()])
        except ValueError as error:
            raise DataError(f'{source}: {error}, expected numbers. Correct it.') from error

    def predict(self, sources):
        feats = torch.stack([self.read(source) for source in sources])
        self.batches.append(len(feats))
        samples = [BaseDataElement(metainfo=dict(sample_id=Path(source).stem), label=0) for source in sources]
        with torch.no_grad():
            return self.model.test_step(dict(inputs=feats, data_samples=samples))

    def save(self, form, folder, name, source, sample):
        path = folder / f'{name}.{form}'
        if form == 'npy':
            np.save(path, sample.pred)
        else:
            path.write_text(self.meta['classes'][sample.pred])
        return path

    def draw(self, source, sample=None, truth=None, title=''):
        image = np.zeros((40, 60, 3), np.uint8)
        image[:, :20] = 0 if sample is None else 50 * (1 + sample.pred)
        image[:, 20:40] = 0 if truth is None else 50 * (1 + truth)
        return image

    def view(self, view, source, sample, truth, name):
        image = self.draw(source, sample, truth, name)
        return image[::-1] if view == 'flipped' else image

    def truth(self, labels, name, source):
        path = Path(labels, f'{name}.label')
        if not path.is_file():
            raise DataError(f'{path}: no such file, expected a class. Write it.')
        return int(path.read_text())

    def draw_sample(self, sample, title=''):
        return np.full((40, 60, 3), int(40 * np.clip(3 + float(sample['inputs'][0]), 0, 6)), np.uint8)
