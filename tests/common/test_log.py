"""Lines of the log."""
from mmengine.runner import LogProcessor as MMEngineLogProcessor

from perception.common.log import LogProcessor


def test_a_line_of_many_scores_holds_the_main_ones(monkeypatch):
    scores = dict(miou=.5, accuracy=.6, miou_present=.7, **{f'iou_{name}': .1 for name in 'abcdefghij'})
    text = 'Epoch(val) [2][3/3]    ' + '  '.join(f'{k}: {v:.4f}' for k, v in [*scores.items(), ('time', .1)])
    monkeypatch.setattr(MMEngineLogProcessor, 'get_log_after_epoch', lambda self, *_: (scores, text))
    tag, line = LogProcessor().get_log_after_epoch(None, 0, 'val')
    assert tag is scores and line == ('Epoch(val) [2][3/3]    miou: 0.5000  accuracy: 0.6000  miou_present: 0.7000  '
                                      'iou_a: 0.1000  (9 more)  time: 0.1000')
    few = text.replace('iou_j: 0.1000  ', '')  # twelve, such as those of a classifier
    monkeypatch.setattr(MMEngineLogProcessor, 'get_log_after_epoch', lambda self, *_: (scores, few))
    assert LogProcessor().get_log_after_epoch(None, 0, 'val')[1] == few
