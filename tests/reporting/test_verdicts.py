"""What a report says first: a sentence each, and a verdict over them, for every case of the numbers."""
import pytest

from coulomb_gan.reporting.verdicts import Finding, aim_finding, beside_paper, energy_finding, fid_finding, findings_table
from coulomb_gan.reporting.verdicts import image_findings, point_findings, text_findings, verdict

NEAR = dict(nearest_median=2., nearest_median_train=2.)


def finding(reached, name='n'): return Finding(name, 1., 2., 'a sentence', reached)


@pytest.mark.parametrize('reached, words', [
    ([], '**No verdict**: no number'), ([None, None], '**No verdict**: no number'),
    ([True, True, None], '**Reached**, all of 2: a 2, b 2.'),
    ([False, None], '**Not reached**, none of 1: a 2.'),
    ([False, True, None, False], '**Partly reached**, 1 of 3; missed: a 2, d 2.')], ids=str)
def test_verdict_has_four_cases(reached, words):
    found = verdict([finding(one, name) for one, name in zip(reached, 'abcd')])
    assert found.startswith(words) and '\n' not in found and found.endswith('.')


@pytest.mark.parametrize('fid, paper, reached, words', [
    (20., 27.3, True, "7.3 below the paper's"), (27.3, 27.3, True, "0 below the paper's"),
    (30., 27.3, False, "2.7 above the paper's"), (30., None, None, 'the paper has none'), (None, 27.3, None, 'not measured')])
def test_fid_beside_the_papers(fid, paper, reached, words):
    found = fid_finding(fid, paper)
    assert found.reached is reached and found.sentence.startswith(words) and (found.paper, found.here) == (paper, fid)


@pytest.mark.parametrize('interval, reached, words', [
    ((.1, .3), False, 'samples differ from'), ((-.1, .3), True, 'samples cannot be told'), ((0., .3), True, 'samples cannot be told'),
    ((-.3, -.1), True, 'samples cannot be told'), (None, None, 'one value, without')], ids=str)
def test_energy_is_read_by_its_interval(interval, reached, words):
    found = energy_finding(.2, interval)
    assert found.reached is reached and found.sentence.startswith(words)
    assert energy_finding(None, interval).reached is None


@pytest.mark.parametrize('bound, value, reached', [
    (dict(least=2.), 1.9, False), (dict(least=2.), 2., True), (dict(most=2.), 2., True), (dict(most=2.), 2.1, False)], ids=str)
def test_aims_are_reached_at_their_bound(bound, value, reached):
    found = aim_finding('a', value, **bound)
    assert found.reached is reached and found.sentence.startswith('reached' if reached else 'missed') and '2' in found.paper


def test_an_energy_stands_with_its_own_interval():
    "Not with one of another kernel or of other points"
    far = dict(diagnostics=dict(energy=.2, energy_low=.1, energy_high=.3))
    given = dict(energy_at_points=.4, energy_interval=[.3, .5])
    for more, here in ((far, .2), (given, .4), ({}, .9)):
        found, = [f for f in point_findings(dict(energy=.9) | more) if f.name.startswith('F ')]
        assert found.here == here and (found.reached is None) == (not more)


def test_findings_of_each_kind():
    "In their order, the most telling first"
    metrics = NEAR | dict(net=dict(fid=20., bias=1.), class_frequencies=[.04, .2])
    names = [f.name for f in image_findings(metrics, 27.3, dict(frechet=2., bias=1.))]
    assert names[:2] == ['FID', 'F against held-out data'] and names[-2:] == ['least class frequency', 'greatest class frequency']
    assert [f.reached for f in image_findings(metrics, 27.3)[-2:]] == [False, False]
    assert not image_findings(NEAR | dict(nearest_median=.9), None)[2].reached      # closer than half of what real ones are: copies
    cover = dict(modes=25, share_min=.5, share_max=2., within_3sigma=.95)
    assert [f.reached for f in point_findings(cover, 25)] == [True, None, True, True, True]
    assert point_findings(cover | dict(modes=24), 25)[0].reached is False
    jsd = dict(jsd={'4': .36, '6': .7})
    assert [f.reached for f in text_findings(jsd, {4: .35, 6: .74}, True)] == [False, True, None]
    assert [f.reached for f in text_findings(jsd, {4: .35, 6: .74}, False)] == [None, None, None]


def test_each_number_has_a_sentence():
    lines = findings_table([beside_paper('FID', 30., 27.3), finding(None)]).splitlines()
    assert lines[0] == '|  | paper, or our aim | here | what it says |'
    assert lines[2] == "| FID | 27.3 | 30 | 2.7 above the paper's |" and lines[3].endswith('| a sentence |')
