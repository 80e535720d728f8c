"""What only a GPU can show: recorded steps are the plain ones, and runs go from one kind of device to the other."""
from dataclasses import replace

import pytest
import torch

from coulomb_gan.training import fit
from coulomb_gan.training.algorithm import State, train_step
from coulomb_gan.training.cuda_graph import WARM_UP, Stepper
from coulomb_gan.data.datasets import to_float
from coulomb_gan.training.config import Experiment
from coulomb_gan.files import RunError
from coulomb_gan.training.fit import fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')

BASE = Experiment(latent=4, width_g=32, width_d=32, depth_g=1, depth_d=1, batch=16, steps=40, lr_g=1e-3, lr_d=1e-3,
                  log_every=10, eval_every=20, eval_samples=100, device='cuda')
CASES = {
    'released': {},
    'schedules': dict(decay='exponential', lr_end=.01, eps=3., eps_end=.3, ema=.9),
    'charges': dict(charges=16, memory=80, self_term=.5),
    'direct': dict(objective='direct', charges=16, self_term=0., decay='cosine', eps_end=.5),
    'smoothing': dict(smoothing=.5),
    'alternating': dict(alternating=True),
    'wgan-gp': dict(objective='wgan-gp'),
    'bfloat16': dict(precision='bfloat16'),
    'images': dict(networks='dcgan', width_g=64, width_d=16, precision='bfloat16'),
}


def batches(e, shape, n=12):
    gen = torch.Generator().manual_seed(0)
    rows = torch.randint(256, (n, e.batch + e.charges, *shape), generator=gen, dtype=torch.uint8)
    return [to_float(y).cuda() for y in rows]


@pytest.mark.parametrize('case', CASES)
def test_recorded_steps_are_the_plain_ones(case):
    e = replace(BASE, **CASES[case])
    shape = (1, 16, 16) if e.networks == 'dcgan' else (1, 8, 8)
    plain, recorded = State(e, shape), State(e, shape)
    step = Stepper(recorded, e)
    losses = [[torch.stack(one(y)) for y in batches(e, shape)]
              for one in (lambda y: train_step(plain, e, y), step)]
    assert step.recorded and step.plain == max(WARM_UP, e.memory // e.batch)
    # the same kernels on the same numbers; a library may choose others while recording
    torch.testing.assert_close(*(torch.stack(l) for l in losses), rtol=1e-4, atol=1e-6)
    assert len({tuple(l.tolist()) for l in losses[1]}) == len(losses[1])
    for a, b in zip(plain.average.parameters(), recorded.average.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=BASE.lr_g)  # twelve steps of at most 1e-3 each


def test_a_stale_dial_would_be_seen():
    e = replace(BASE, **CASES['schedules'])
    ends = []
    for own in (e, replace(e, lr_end=1., eps_end=3.)):
        s = State(own, (1, 8, 8))
        step = Stepper(s, own)
        ends.append(torch.stack([torch.stack(step(y)) for y in batches(own, (1, 8, 8))]))
    assert (ends[0][-1] - ends[1][-1]).abs().max() > 1e-3


def test_runs_go_from_one_device_to_the_other(tmp_path):
    e = replace(BASE, networks='dcgan', width_g=64, width_d=16)
    on_gpu = State(e, (1, 16, 16))
    step = Stepper(on_gpu, e)
    for y in batches(e, (1, 16, 16)): step(y)
    torch.save(on_gpu.state_dict(), tmp_path / 'gpu.pt')
    saved, own = torch.load(tmp_path / 'gpu.pt', map_location='cpu', weights_only=True), replace(e, device='cpu')
    here, back = State(own, (1, 16, 16)), State(e, (1, 16, 16))
    here.load_state_dict(saved)
    train_step(here, own, batches(e, (1, 16, 16))[0].cpu())
    back.load_state_dict(here.state_dict())
    for (p, a), b in zip(back.opt_g.state.items(), here.opt_g.state.values()):
        assert a['exp_avg'].stride() == p.stride() and b['exp_avg'].is_contiguous()
        assert torch.equal(a['exp_avg'].cpu(), b['exp_avg'])
    step = Stepper(back, e)
    for y in batches(e, (1, 16, 16)): losses = step(y)
    assert step.recorded and torch.stack(losses).isfinite().all()


def test_a_stopped_run_continues(tmp_path, monkeypatch):
    e, kept = replace(BASE, ema=.9, eps_end=.5), fit.append_metrics
    whole = fit(e, tmp_path / 'whole', progress=False)
    def stop(out, record):
        if record['step'] == 30: raise KeyboardInterrupt
        kept(out, record)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(training, 'append_metrics', stop)
        fit(e, tmp_path / 'run', progress=False)
    run = fit(e, tmp_path / 'run', progress=False)
    assert [r['step'] for r in run.metrics] == [10, 20, 30, 40]
    torch.testing.assert_close(run.sample(20), whole.sample(20), rtol=1e-3, atol=1e-3)


def test_a_loss_that_explodes_in_a_recorded_step_is_named(tmp_path, monkeypatch):
    class Breaking(Stepper):
        def __call__(self, y):
            if self.s.step == 6: next(self.s.g.parameters()).data.fill_(float('nan'))
            return super().__call__(y)
    monkeypatch.setattr(training, 'Stepper', Breaking)
    with pytest.raises(RunError, match='not finite at step 7'): fit(BASE, tmp_path / 'run', progress=False)
