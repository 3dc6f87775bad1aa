"""Intra-class feature variation against a slow implementation, written here from the equations."""
import numpy as np
import pytest
import torch

from perception.distill.ifv import IFVLoss


def slow_variation(feats, labels):
    """Similarity of each labelled position of one sample to its class' mean."""
    result = {}
    for i, label in enumerate(labels):
        if label != 255:
            prototype = np.mean([f for f, other in zip(feats, labels) if other == label], 0)
            result[i] = feats[i] @ prototype / np.linalg.norm(feats[i]) / np.linalg.norm(prototype)
    return result


def test_equals_the_equation(case):
    value = IFVLoss('full', rows=case.rows)(case.student, case.teacher, case.batch)
    gaps = []
    for s, t, labels in zip(case.samples(case.student['feats']), case.samples(case.teacher['feats']), case.labels()):
        ours, theirs = slow_variation(s, labels), slow_variation(t, labels)
        gaps += [(ours[i] - theirs[i]) ** 2 for i in ours]
    assert len(gaps) > 20
    assert value.item() == pytest.approx(np.mean(gaps), rel=1e-10)


def test_ignored_positions_count_nowhere(make_case):
    case, loss = make_case('map'), IFVLoss('full')
    first = loss(case.student, case.teacher, case.batch)
    case.student['feats'] = torch.where(case.inputs['labels'][:, None] == 255, 1e3, case.student['feats'])
    assert loss(case.student, case.teacher, case.batch) == first


def test_labels_come_to_the_size_of_the_features(make_case):
    case, loss = make_case('map'), IFVLoss('full')
    first = loss(case.student, case.teacher, case.batch)
    large = torch.randint(0, 5, (2, 20, 28))
    large[:, ::4, ::4] = case.inputs['labels']  # what nearest neighbour takes
    case.inputs['labels'] = large
    assert loss(case.student, case.teacher, case.batch) == first


def test_a_prototype_belongs_to_its_image():
    """Two images whose one class looks the other way: every position is its prototype."""
    feats = torch.ones(2, 3, 4, 4)
    feats[1] *= -1
    batch = dict(inputs=dict(labels=torch.zeros(2, 4, 4, dtype=torch.int64)))
    value = IFVLoss('full')(dict(feats=feats), dict(feats=torch.ones(2, 3, 4, 4)), batch)
    assert value < 1e-12


@pytest.mark.parametrize('ignored', [-1, 0, -100])
def test_prototypes_stay_apart_whatever_the_ignored_label(make_case, ignored):
    case = make_case('points')
    labels = case.inputs['labels'] + 1  # from 1 on, so that 0 is free
    first = IFVLoss('full', ignore_index=256)(case.student, case.teacher, dict(inputs=dict(case.inputs, labels=labels)))
    labels = torch.where(labels == 256, ignored, labels)
    again = IFVLoss('full', ignore_index=ignored)(case.student, case.teacher,
                                                  dict(inputs=dict(case.inputs, labels=labels)))
    assert first > 0 and again == first
