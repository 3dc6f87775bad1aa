"""Categorical Relation-Preserving Contrastive Knowledge Distillation for Medical Image Classification, Xing, Hou, Li,
Yuan, Li, Meng, MICCAI 2021 (arXiv 2107.03225).

    CCD   student and teacher embeddings attract samples of their class and repel others, in the memory of the other net
    CRP   the relation of a sample to the centres of the classes is the same for student and teacher
    MT    the prediction of the student is that of its mean teacher, see EMATeacher

Shapes: B samples of a batch, n of the training set, K classes, P positives and N negatives of a sample, D channels.
"""
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, all_reduce, get_rank, get_world_size
from torch import Tensor, nn

from perception.distill.base import DistillLoss
from perception.utils.checks import check_choice, check_class_weights, check_positive
from perception.utils.errors import CheckpointError, ConfigError, DataError

EPS = 1e-7  # of the reference's logarithms
CONSISTENCY = ('kl', 'mse')
MEMORIES = ('memory_s', 'memory_t', 'scales', 'labels', 'samples')  # what belongs to a training set


class CRCKDLoss(DistillLoss):
    """CCD and CRP on the last features of a classifier; the terms `ccd` and `crp`.

    Both projections are trained, the teacher's through CCD alone. Memories hold an embedding of each training sample;
    they and the projections are in the checkpoint. A hook (TrainingSetHook) tells the classes and names of the training
    samples before the training begins. Processes exchange what they store.

    The batch's inputs hold `index`, (B,) rows of the samples in the training set.

    Args:
        teacher: name of the teacher in the Distiller.
        features: tap of (B, channels) features, in both nets.
        channels: of the features.
        embedding: D.
        positives: P, with `mode='multi_pos'` the sample and P - 1 others of its class, which repeat where the class has
            fewer; `mode='exact'` takes the sample alone.
        negatives: N, which repeat where there are fewer.
        mode: `'multi_pos'` or `'exact'`.
        negatives_of: `'others'`, samples of other classes, or `'all'`, all but the sample itself.
        temperature: tau of scores and relations.
        momentum: share of a memory's row that stays when its sample is seen again.
        ccd_weight: lambda of CCD; 0 leaves it out.
        crp_weight: lambda of CRP; 0 leaves it out.
        crp_begin: first iteration with CRP.
        relu: class centres are means of the positive parts of the memory, as in the published code.
        anchors: what CRP relates a sample to: `'center'` of each class, or `'class'`, some samples of each.
        anchors_per_class: how many, for `'class'`.
        legacy_double_weight: from `crp_begin` on, multiply CCD by its weight twice, as the published code does.
        seed: of the memories' first values and of the samples that are drawn.
        weight, begin, end: see DistillLoss.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(self, teacher: str, features: str = 'features', channels: int = 128, embedding: int = 128,
                 positives: int = 20, negatives: int = 4096, mode: str = 'multi_pos', negatives_of: str = 'others',
                 temperature: float = 0.07, momentum: float = 0.5, ccd_weight: float = 0.1, crp_weight: float = 1.0,
                 crp_begin: int = 0, relu: bool = True, anchors: str = 'center', anchors_per_class: int = 30,
                 legacy_double_weight: bool = False, seed: int = 0, weight: float = 1.0, begin: int = 0,
                 end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        check_choice('CRCKDLoss: mode', mode, ('multi_pos', 'exact'))
        check_choice('CRCKDLoss: negatives_of', negatives_of, ('others', 'all'))
        check_choice('CRCKDLoss: anchors', anchors, ('center', 'class'))
        check_positive('CRCKDLoss', positives=positives, negatives=negatives, temperature=temperature,
                       anchors_per_class=anchors_per_class, channels=channels, embedding=embedding)
        if not 0 <= momentum < 1 or min(ccd_weight, crp_weight, crp_begin, seed) < 0:
            raise ConfigError(f'CRCKDLoss: momentum={momentum}, ccd_weight={ccd_weight}, crp_weight={crp_weight}, '
                              f'crp_begin={crp_begin}, seed={seed}, expected a momentum of 0 to less than 1 and no '
                              'negative number. Correct them.')
        self.taps, self.features = (features,), features
        self.positives = positives if mode == 'multi_pos' else 1
        self.negatives, self.negatives_of = negatives, negatives_of
        self.temperature, self.momentum, self.seed = temperature, momentum, seed
        self.ccd_weight, self.crp_weight, self.crp_begin = ccd_weight, crp_weight, crp_begin
        self.relu, self.anchors, self.anchors_per_class = relu, anchors, anchors_per_class
        self.legacy_double_weight = legacy_double_weight
        self.embed_s, self.embed_t = Embedding(channels, embedding), Embedding(channels, embedding)
        self.register_buffer('memory_s', torch.zeros(0, embedding))
        self.register_buffer('memory_t', torch.zeros(0, embedding))
        self.register_buffer('scales', torch.zeros(2))  # Z of student and teacher scores; 0 before the first batch
        self.register_buffer('labels', torch.zeros(0, dtype=torch.int64))
        self.register_buffer('samples', torch.zeros(0, dtype=torch.int64))  # checksums of their names

    @property
    def teaches_from(self) -> int:
        """First iteration with both terms."""
        return max(self.begin, self.crp_begin if self.crp_weight else 0)

    def know_training_set(self, labels: Tensor, names: Sequence[str] = ()) -> None:
        """Make room for the training samples, with random embeddings.

        Args:
            labels: (n,) classes of the training samples.
            names: n, by which the memories of a checkpoint are known to be theirs; their numbers by default.

        Raises:
            DataError: they are all of one class.
        """
        labels = labels.to(self.labels.device, torch.int64)
        if len(labels.unique()) < 2:
            raise DataError(f'CRCKDLoss: {len(labels)} training samples of one class, expected two classes or more. '
                            'Check the labels of the training set.')
        generator = torch.Generator().manual_seed(self.seed)
        bound = math.sqrt(3 / self.memory_s.shape[1])
        for name in ('memory_s', 'memory_t'):
            rows = torch.rand(len(labels), self.memory_s.shape[1], generator=generator) * 2 * bound - bound
            setattr(self, name, rows.to(labels.device))
        self.labels, self.scales = labels, torch.zeros_like(self.scales)
        self.samples = torch.tensor([zlib.crc32(str(name).encode()) for name in names or range(len(labels))],
                                    device=labels.device)

    def check_saved(self, weights: dict[str, Tensor], where: str) -> None:
        """See that the memories of a checkpoint are of the samples that are trained with.

        Raises:
            CheckpointError: they are of others.
        """
        saved = weights.get('labels')
        if saved is None or not len(self.labels) or self._knows(weights):
            return
        raise CheckpointError(f'{where}: memories of {len(saved)} training samples in {len(saved.unique())} classes, '
                              f'expected those of the {len(self.labels)} in {len(self.labels.unique())} classes '
                              'that are trained with now, by class and name. Resume with the same data and fold, or '
                              f'start from its weights with --cfg-options load_from={where}.')

    def _knows(self, weights: dict[str, Tensor], prefix: str = '') -> bool:
        """Whether weights hold memories of the samples that are trained with."""
        return all(torch.equal(weights[prefix + name].to(self.labels.device), getattr(self, name))
                   for name in ('labels', 'samples') if prefix + name in weights)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        whole = all(prefix + name in state_dict for name in MEMORIES)
        told, ours = len(self.labels) > 0, whole and self._knows(state_dict, prefix)
        for name in MEMORIES:
            if whole and not told:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.labels.device))
            elif not ours:
                state_dict[prefix + name] = getattr(self, name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> dict[str, Tensor]:
        """`ccd` and, from `crp_begin` on, `crp`, weighted; the memories are brought up to date between them.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name.
            batch: its inputs hold `index` (B,).

        Raises:
            ConfigError: nobody told the training set.
            DataError: the batch has no rows of the training set.
        """
        index = self._check_index(batch['inputs'].get('index'), student[self.features])
        now = batch['iteration']
        with torch.autocast(index.device.type, enabled=False):
            g_s = self.embed_s(student[self.features].float())
            g_t = self.embed_t(teacher[self.features].float())
            terms = {}
            if self.ccd_weight:
                chosen = self.choose(index, self._generator(now, index.device))
                twice = self.legacy_double_weight and now >= self.crp_begin
                terms['ccd'] = self.ccd_weight ** (1 + twice) * self.contrast(g_s, g_t, chosen)
            self.remember(index, g_s.detach(), g_t.detach())
            if self.crp_weight and now >= self.crp_begin:
                terms['crp'] = self.crp_weight * self.relate(g_s, g_t.detach(), now)
        return terms

    def contrast(self, g_s: Tensor, g_t: Tensor, chosen: Tensor) -> Tensor:
        """L_CCD, a mean over samples of the mean over positives and the sum over negatives, both directions added.

        Args:
            g_s: (B, D) embeddings of the student, of length 1.
            g_t: (B, D) of the teacher.
            chosen: (B, P + N) rows of the memories, the positives first.
        """
        scores = [((anchor @ memory.clone().T).gather(1, chosen) / self.temperature).exp()  # it changes before backward
                  for anchor, memory in ((g_s, self.memory_t), (g_t, self.memory_s))]
        if not bool(self.scales.all()):
            means = torch.stack([score.detach().mean() for score in scores])
            all_reduce(means, 'mean')
            self.scales.copy_(means * len(self.labels))
        return sum(contrastive_loss(score / scale, self.positives, len(self.labels))
                   for score, scale in zip(scores, self.scales))

    @torch.no_grad()
    def remember(self, index: Tensor, g_s: Tensor, g_t: Tensor) -> None:
        """Mix the embeddings of a batch, and of those of all other processes, into their rows of the memories.

        Args:
            index: (B,) rows; of a row that comes twice the last one counts.
            g_s: (B, D) of the student.
            g_t: (B, D) of the teacher.
        """
        if get_world_size() > 1:
            index, g_s, g_t = (torch.cat(all_gather(part.contiguous())) for part in (index, g_s, g_t))
        again = (index[:, None] == index[None]).triu(1).any(1)
        index, g_s, g_t = index[~again], g_s[~again], g_t[~again]
        for memory, rows in ((self.memory_s, g_s), (self.memory_t, g_t)):
            memory[index] = F.normalize(self.momentum * memory[index] + (1 - self.momentum) * rows, dim=1)

    def relate(self, g_s: Tensor, g_t: Tensor, iteration: int = 0) -> Tensor:
        """L_CRP, KL divergence of the relations, a mean over samples; the student's embedding alone has a gradient.

        Args:
            g_s: (B, D) embeddings of the student.
            g_t: (B, D) of the teacher.
            iteration: for the anchors that are drawn.
        """
        if self.anchors == 'class':
            rows = self._anchors(self._generator(iteration, g_s.device, 1))
            pair = self.memory_s[rows], self.memory_t[rows]
        else:
            pair = self.centers(self.memory_s), self.centers(self.memory_t)
        return relation_loss(g_s, g_t, *pair, self.temperature)

    def centers(self, memory: Tensor) -> Tensor:
        """(K', D) centres of the classes that have samples, each the mean over its own, however many they are."""
        rows = memory.relu() if self.relu else memory
        counts = self.labels.bincount()
        sums = rows.new_zeros(len(counts), rows.shape[1]).index_add_(0, self.labels, rows)
        return sums[counts > 0] / counts[counts > 0, None]

    def choose(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Rows of the memories for each sample: itself, P - 1 of its class and N others, drawn on the device.

        Args:
            index: (B,) rows of the samples.
            generator: of random numbers, on their device.

        Returns:
            (B, P + N) rows.
        """
        order = self.labels.argsort(stable=True)  # rows sorted by class
        counts = self.labels.bincount()
        first = counts.cumsum(0) - counts
        labels = self.labels[index]
        same = self.labels[None] == labels[:, None]  # (B, n)
        itself = torch.zeros_like(same).scatter_(1, index[:, None], True)

        def uniform(width: int) -> Tensor:
            return torch.rand(len(index), width, generator=generator, device=index.device, dtype=torch.float64)

        parts = [index[:, None]]
        if self.positives > 1:
            wanted = self.positives - 1
            rows = order[first[labels, None] + (uniform(wanted) * counts[labels, None]).long()]
            parts.append(_distinct(same & ~itself, wanted, rows, uniform))
        if self.negatives_of == 'others':
            place = (uniform(self.negatives) * (len(order) - counts[labels])[:, None]).long()
            rows = order[place + torch.where(place >= first[labels, None], counts[labels, None], 0)]
            parts.append(_distinct(~same, self.negatives, rows, uniform))
        else:
            place = (uniform(self.negatives) * (len(order) - 1)).long()
            parts.append(_distinct(~itself, self.negatives, place + (place >= index[:, None]), uniform))
        return torch.cat(parts, 1)

    def _anchors(self, generator: torch.Generator) -> Tensor:
        """Rows of `anchors_per_class` samples of each class, (K' * M,)."""
        labels = self.labels.unique()
        counts, order = self.labels.bincount(), self.labels.argsort(stable=True)
        first = (counts.cumsum(0) - counts)[labels]
        draws = torch.rand(len(labels), self.anchors_per_class, generator=generator, device=labels.device,
                           dtype=torch.float64)
        return order[first[:, None] + (draws * counts[labels, None]).long()].flatten()

    def _generator(self, iteration: int, device: torch.device, use: int = 0) -> torch.Generator:
        """Random numbers that depend on (seed, iteration, rank) alone; those of anchors are equal on all ranks."""
        place = [self.seed, iteration, use] + ([] if use else [get_rank()])
        return torch.Generator(device).manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def _check_index(self, index: Tensor | None, features: Tensor) -> Tensor:
        if not len(self.labels):
            raise ConfigError('CRCKDLoss: its memories have no rows, expected one for each training sample. Add '
                              'dict(type=TrainingSetHook) to default_hooks.')
        if index is None or len(index) != len(features):
            came = 'no index' if index is None else f'{len(index)} rows'
            raise DataError(f'CRCKDLoss: {came} for {len(features)} samples, expected the row of each in the training '
                            'set. Use a data set that gives it.')
        if not bool(((index >= 0) & (index < len(self.labels))).all()):
            raise DataError(f'CRCKDLoss: a sample of row {int(index.max())}, expected rows below {len(self.labels)}. '
                            'Train on the data set that TrainingSetHook was told.')
        return index


class Embedding(nn.Module):
    """A linear projection to length 1.

    Args:
        channels: C of the features (B, C).
        embedding: D of the result (B, D).
    """

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.linear = nn.Linear(channels, embedding)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) directions of (B, C) features."""
        return F.normalize(self.linear(features), dim=1)


def _distinct(allowed: Tensor, count: int, otherwise: Tensor, uniform: Any) -> Tensor:
    """Draw columns that differ; a row that has too few gets others, which may repeat.

    Args:
        allowed: (B, n) bool, which columns may be drawn in each row.
        count: how many are drawn.
        otherwise: (B, count) columns for rows that allow less.
        uniform: gives (B, width) random numbers in 0..1.

    Returns:
        (B, count) columns.
    """
    enough = allowed.sum(1) >= count
    if not bool(enough.any()):
        return otherwise
    columns = uniform(allowed.shape[1]).masked_fill_(~allowed, 2).topk(count, dim=1, largest=False).indices
    return torch.where(enough[:, None], columns, otherwise)


def contrastive_loss(scores: Tensor, positives: int, num_samples: int) -> Tensor:
    """Mean over samples of -(mean over positives of log h + sum over negatives of log(1 - h)), h = x / (x + c).

    Args:
        scores: (B, P + N) x, the positives first.
        positives: P.
        num_samples: n, so that c = N / n.
    """
    noise = (scores.shape[1] - positives) / num_samples
    near, far = scores[:, :positives], scores[:, positives:]
    hits = (near / (near + noise + EPS)).log().mean(1)
    misses = (noise / (far + noise + EPS)).log().sum(1)
    return -(hits + misses).mean()


def relation_loss(g_s: Tensor, g_t: Tensor, anchors_s: Tensor, anchors_t: Tensor, temperature: float) -> Tensor:
    """KL(softmax(g_t . anchors_t / tau) || softmax(g_s . anchors_s / tau)), a mean over samples.

    Args:
        g_s: (B, D) embeddings of the student.
        g_t: (B, D) of the teacher.
        anchors_s: (A, D) of the student's memory, whose directions count.
        anchors_t: (A, D) of the teacher's.
        temperature: tau.
    """
    ours, theirs = (g @ F.normalize(anchors.detach(), dim=1).T / temperature
                    for g, anchors in ((g_s, anchors_s), (g_t.detach(), anchors_t)))
    return F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction='batchmean', log_target=True)


class ConsistencyLoss(DistillLoss):
    """The student predicts what its mean teacher predicts of another view; a sum over classes, a mean over samples.

    Its weight grows as exp(-5 (1 - min(e, ramp) / ramp)^2) with the epoch e, also where it begins later.

    Args:
        teacher: name of the teacher in the Distiller.
        logits: tap of the class scores (B, K), in both nets.
        kind: `'kl'`, the divergence KL(teacher || student), or `'mse'`, squared differences of probabilities.
        class_weights: K weights of the classes, for `'mse'` (SRC-MT).
        epoch: iterations of an epoch.
        ramp: epochs until the weight is whole; 0 for no ramp.
        weight, begin, end: see DistillLoss.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(self, teacher: str, logits: str = 'logits', kind: str = 'kl',
                 class_weights: list[float] | None = None, epoch: int = 1, ramp: int = 30, weight: float = 1.0,
                 begin: int = 0, end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        check_choice('ConsistencyLoss: kind', kind, CONSISTENCY)
        check_positive('ConsistencyLoss', epoch=epoch)
        if ramp < 0 or (class_weights is not None and kind != 'mse'):
            raise ConfigError(f'ConsistencyLoss: ramp={ramp}, class_weights={class_weights} with kind={kind!r}, '
                              "expected a ramp of 0 or more, and class weights with 'mse' alone. Correct them.")
        check_class_weights('ConsistencyLoss', class_weights, len(class_weights or ()))
        self.taps, self.logits, self.kind, self.epoch, self.ramp = (logits,), logits, kind, epoch, ramp
        self.register_buffer('class_weights', None if class_weights is None else torch.tensor(class_weights),
                             persistent=False)

    @property
    def teaches_from(self) -> int:
        """The iteration at which the weight is whole."""
        return max(self.begin, self.ramp * self.epoch)

    def factor(self, iteration: int) -> float:
        """Share of the weight at an iteration."""
        if not self.ramp:
            return 1.0
        return math.exp(-5 * (1 - min(iteration // self.epoch, self.ramp) / self.ramp) ** 2)

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> Tensor:
        """The loss with its ramp.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name.
            batch: with `iteration`.

        Raises:
            ConfigError: weights of other classes.
        """
        s, t = student[self.logits], teacher[self.logits].detach()
        with torch.autocast(s.device.type, enabled=False):
            if self.kind == 'kl':
                terms = F.kl_div(s.float().log_softmax(1), t.float().log_softmax(1), reduction='none', log_target=True)
            else:
                terms = (s.float().softmax(1) - t.float().softmax(1)) ** 2
            if self.class_weights is not None:
                check_class_weights('ConsistencyLoss', self.class_weights.tolist(), terms.shape[1])
                terms = terms * self.class_weights
            return self.factor(batch['iteration']) * terms.sum(1).mean()


class SPLoss(DistillLoss):
    """Similarity-Preserving Knowledge Distillation, Tung and Mori, ICCV 2019: which samples of a batch are alike.

        L = ||G_T - G_S||_F^2 / B^2,  rows of G = f f^T of length 1

    Args:
        teacher: name of the teacher in the Distiller.
        features: tap of (B, ...) features, in both nets; sizes may differ.
        weight, begin, end: see DistillLoss.
    """

    def __init__(self, teacher: str, features: str = 'features', weight: float = 1.0, begin: int = 0,
                 end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        self.taps, self.features = (features,), features

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> Tensor:
        """The loss; arguments as of DistillLoss."""
        with torch.autocast(student[self.features].device.type, enabled=False):
            s, t = (F.normalize(flat @ flat.T, dim=1) for flat in (
                student[self.features].float().flatten(1), teacher[self.features].detach().float().flatten(1)))
            return (s - t).square().sum() / len(s) ** 2
