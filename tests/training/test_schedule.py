"""Learning rates and softening as a run goes on: laid out over its steps, or dropped at plateaus."""
import math

import pytest

from coulomb_gan.training import cuda_graph, evaluation
from coulomb_gan.training.schedule import Progress, lr_factor, schedule
from tiny_runs import TINY, assert_same_end, last_step, result, steps_saved, stopped, train


def scheduled(e, out, monkeypatch):
    "A run, and the learning rates of both networks in each of its steps"
    rates = []
    def train_step(t, y, step=cuda_graph.train_step):
        losses = step(t, y)
        for opt in (t.opt_g, t.opt_d): assert len({group['lr'] for group in opt.param_groups}) == 1
        rates.append((t.opt_g.param_groups[0]['lr'], t.opt_d.param_groups[0]['lr']))
        return losses
    monkeypatch.setattr(cuda_graph, 'train_step', train_step)
    return train(e, out), rates


def monitored(values, monkeypatch):
    "The evaluations of a run find these values, in this order"
    values = iter(values)
    monkeypatch.setattr(evaluation, 'training_energy', lambda *given: next(values))


# --- over the steps -----------------------------------------------------------------------------------------------

def test_exponential_decay_reaches_its_end(tmp_path, monkeypatch):
    e = TINY.changed(decay='exponential', lr_end=.01)
    r, rates = scheduled(e, tmp_path / 'run', monkeypatch)
    want = [.01 ** (t / 12) for t in range(12)]
    # one power and one product in float64
    assert [lr_g for lr_g, _ in rates] == pytest.approx([e.optim.lr_g * factor for factor in want], rel=1e-12)
    assert [lr_d for _, lr_d in rates] == pytest.approx([e.optim.lr_d * factor for factor in want], rel=1e-12)
    assert r.metrics[-1]['lr_factor'] == pytest.approx(.01, rel=1e-12)


def test_cosine_decay_is_flat_at_both_ends(tmp_path, monkeypatch):
    e = TINY.changed(decay='cosine', lr_end=.01)
    _, rates = scheduled(e, tmp_path / 'run', monkeypatch)
    want = [.01 + .99 * (1 + math.cos(math.pi * t / 12)) / 2 for t in range(12)]
    assert [lr_g for lr_g, _ in rates] == pytest.approx([e.optim.lr_g * factor for factor in want], rel=1e-12)
    assert lr_factor(e.optim, Progress(12)) == pytest.approx(.01)


def test_softening_decays_exponentially():
    e = TINY.changed(eps=3., eps_end=.3)
    found = [schedule(e, Progress(step))['eps'] for step in (0, 6, 12)]
    assert found == pytest.approx([3., 3 * .1**.5, .3], rel=1e-12)
    assert schedule(TINY, Progress(6)) == {'lr_g': 1e-3, 'lr_d': 1e-3, 'eps': 1.}
    assert schedule(TINY.changed(objective='wgan-gp'), Progress(6)) == {'lr_g': 1e-3, 'lr_d': 1e-3}


# --- at plateaus --------------------------------------------------------------------------------------------------

def test_first_plateau_drops_the_rates_and_second_ends_the_run(tmp_path, monkeypatch):
    monitored([3., 2., 2.5, 2.5, 1., 1.5, 1.5], monkeypatch)
    e = TINY.changed(decay='plateau', patience=2, lr_end=.1, lr_d=2e-3, steps=60, eval_every=6, log_every=60)
    r, rates = scheduled(e, tmp_path / 'run', monkeypatch)
    assert [line['lr_factor'] for line in r.metrics] == [1, 1, 1, 1, .1, .1, .1]      # each of its own step
    # rates are products of the same two floats, so equal
    assert [lr_g for lr_g, _ in rates] == [1e-3] * 24 + [1e-3 * .1] * 18
    assert [lr_d for _, lr_d in rates] == [2e-3] * 24 + [2e-3 * .1] * 18
    found = result(r.out)
    assert (found['steps'], found['best_step']) == (42, 30)
    assert steps_saved(r.out) == [30, 36, 42]
    assert train(e, r.out).state.progress.step == 42


def test_plateau_survives_a_stop(tmp_path, monkeypatch):
    values = [3., 2., 2.5, 2.5, 2.5, 2.5, 2.5]
    e = TINY.changed(decay='plateau', patience=2, steps=60)
    for out, break_at in (('whole', None), ('broken', 18)):
        with monkeypatch.context() as patch:
            monitored(values, patch)
            if break_at: stopped(e, tmp_path / out, break_at)
            train(e, tmp_path / out)
    assert last_step(tmp_path / 'whole') == 36
    assert_same_end(tmp_path / 'broken', tmp_path / 'whole')


def test_no_decay_ignores_plateaus(tmp_path, monkeypatch):
    monitored([1.] * 9, monkeypatch)
    e = TINY.changed(decay='plateau', patience=1).changed(decay='none', steps=24)
    assert [line['lr_factor'] for line in train(e, tmp_path / 'run').metrics] == [1.] * 8


@pytest.mark.parametrize('patience, drops', [(1, [2, 3]), (2, [3, 5]), (3, [4, 7])])
def test_a_plateau_takes_patience(patience, drops):
    "Equal values are not better; the count starts anew after a drop"
    optim = TINY.changed(decay='plateau', patience=patience, steps=100).optim
    progress, changes = Progress(), []
    for step in range(1, 9):
        before = (len(progress.lr_drops), progress.finished)
        progress.step = step
        progress.update(1., optim)
        if (len(progress.lr_drops), progress.finished) != before: changes.append(step)
        if progress.finished: break
    assert changes == drops and progress.lr_drops == drops[:1]
    assert progress.finished and progress.at_plateau and progress.best_step == 1
