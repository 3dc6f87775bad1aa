"""The evidence: what is called a gain, and what a report says."""
from perception.apis.benchmarks.prune import lines_of, spread, verdicts


def row(method, ratio, top1, ms, **more):
    return dict(method=method, ratio=ratio, seeds=len(top1), scores=dict(top1=top1), ms=dict(pytorch=ms), **more)


def rows(peel):
    return [row('whole', 1.0, [0.95, 0.95], 10.0), row('peel', 0.5, peel, 9.9, macs=5e6, whole_macs=1e7, params=1e5,
                                                       whole_params=2e5),
            row('uniform', 0.5, [0.90, 0.91], 5.0), row('shuffled', 0.5, [0.88, 0.89], 5.0)]


def test_a_gain_betters_both_controls_by_more_than_the_spread():
    gain = verdicts(rows([0.93, 0.94]), ['top1'])[0]
    assert '+0.0300' in gain and 'a gain' in gain
    assert 'not told' in verdicts(rows([0.91, 0.911]), ['top1'])[0]
    assert 'no gain' in verdicts(rows([0.90, 0.90]), ['top1'])[0]
    assert 'not told' in verdicts([dict(one, scores=dict(top1=one['scores']['top1'][:1]))
                                   for one in rows([0.99, 0.99])], ['top1'])[0]


def test_where_fewer_operations_are_not_less_time():
    assert any('not less time' in line for line in verdicts(rows([0.9, 0.9]), ['top1']))


def test_the_report_is_a_table():
    lines = lines_of(dict(machine='here', init='scratch', configs={'configs/peel/x.py': rows([0.93, 0.94])}))
    assert '| peel | 0.5 | 5.0 | 0.100 | 0.9350 ± 0.0071 | 9.90 |' in lines
    assert '| whole | 1 | 10.0 | 0.200 | 0.9500 ± 0.0000 | 10.00 |' in lines
    assert spread([]) == '-' and spread([0.5]) == '0.5000'
