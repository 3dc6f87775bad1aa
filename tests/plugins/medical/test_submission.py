"""The files for Kaggle and ISIC, and what their checks find."""
import pytest
import torch
from mmengine.logging import MMLogger

from perception.plugins.medical.datasets.aptos.submission import APTOSSubmission
from perception.plugins.medical.datasets.ham10000.submission import ISICSubmission
from perception.utils.errors import DataError


def write(kind, folder, names, wanted=None):
    MMLogger.get_instance('medical', logger_name='medical')
    writer = kind(folder)
    writer.dataset_meta = dict(sample_ids=wanted or names)
    scores = torch.tensor([.5, .25, .125, .0625, .0625, 0, 0])
    writer.process(None, [dict(sample_id=name, pred_label=torch.tensor(3), pred_scores=scores) for name in names])
    writer.evaluate(len(names))
    return folder / 'submission.csv'


def test_the_files_have_the_official_form(tmp_path):
    assert write(APTOSSubmission, tmp_path / 'a', ['0005cfc8afb6', '003f0afdcd15']).read_text() == \
        'id_code,diagnosis\n0005cfc8afb6,3\n003f0afdcd15,3\n'
    first, second = write(ISICSubmission, tmp_path / 'b', ['ISIC_0034524']).read_text().splitlines()
    assert first == 'image,MEL,NV,BCC,AKIEC,BKL,DF,VASC'
    assert second == 'ISIC_0034524,' + ','.join(f'{v:.8f}' for v in (.5, .25, .125, .0625, .0625, 0, 0))


@pytest.mark.parametrize(('names', 'wanted', 'match'), [
    (['a'], ['a', 'b'], 'b is missing'), (['a', 'b'], ['a'], 'b is no image of the test'),
    (['a', 'a'], ['a'], 'a comes 2 times')])
def test_incomplete_submissions_are_refused(tmp_path, names, wanted, match):
    with pytest.raises(DataError, match=match):
        write(APTOSSubmission, tmp_path, names, wanted)


@pytest.mark.parametrize(('kind', 'text', 'match'), [
    (APTOSSubmission, 'id,diagnosis\na,1\n', 'header is id,diagnosis'), (APTOSSubmission, '', 'not there'),
    (APTOSSubmission, 'id_code,diagnosis\na,1.0\n', "line 2: the diagnosis is '1.0'"),
    (APTOSSubmission, 'id_code,diagnosis\na,5\n', "'5', not 0..4"),
    (APTOSSubmission, 'id_code,diagnosis\na\n', 'line 2: 1 values, not 2'),
    (ISICSubmission, 'image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\na,0,0,0,0,0,0,1.5\n', 'a confidence is 1.5'),
    (ISICSubmission, 'image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\na,0,0,0,0,0,0,nan\n', 'a confidence is nan'),
    (ISICSubmission, 'image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\na,0,0,0,0,0,0,x\n', "'x'"),
    (ISICSubmission, 'image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\na,0,0,0,0,0,0,0_1\n', 'a confidence is 0_1'),
    (ISICSubmission, 'image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\na,1,.1,.1,.1,.1,.1,.1\nb,0,.1,1,.1,.1,.1,.1', 'MEL are all'),
    (ISICSubmission, 'image,NV,MEL,BCC,AKIEC,BKL,DF,VASC\na,0,0,0,0,0,0,1\n', 'header')])
def test_the_check_names_what_a_server_refuses(tmp_path, kind, text, match):
    path = tmp_path / 'x.csv'
    path.write_text(text)
    problem, = kind.check(path)
    assert match in problem
    assert 'cannot be read' in kind.check(tmp_path / 'absent.csv')[0]


def test_a_good_file_has_no_problem(tmp_path):
    path = write(ISICSubmission, tmp_path, ['a', 'b'])
    assert ISICSubmission.check(path, ['b', 'a']) == []
