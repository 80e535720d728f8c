"""All that goes from one step to the next: saved, loaded, averaged, made small, and taken to another device."""
import shutil

import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.files import RunError
from coulomb_gan.training import cuda_graph
from coulomb_gan.training.algorithm import rows_of_a_step, train_step
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.run_folder import load_checkpoint, newest_checkpoint, save_checkpoint
from coulomb_gan.training.state import TrainState, inference_checkpoint
from tiny_runs import TINY, VARIANTS, tiny, assert_same_state, flat, stopped, train

SHAPE = (1, 8, 8)


def stepped(t, n, seed=0):
    "A state after further steps"
    gen = torch.Generator().manual_seed(seed)
    for _ in range(n): train_step(t, 2 * torch.rand(rows_of_a_step(t), *SHAPE, generator=gen) - 1)
    return t


def weights(net): return torch.cat([p.detach().flatten() for p in net.parameters()])


# --- saved and loaded ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', VARIANTS)
def test_a_state_that_was_saved_goes_on_bit_for_bit(name, tmp_path):
    e = tiny(ema=.9, decay='exponential', steps=20, **VARIANTS[name])
    t = stepped(TrainState(e, SHAPE), 2)      # the replay buffer is not full yet
    save_checkpoint(tmp_path / '2.pt', t.state_dict())
    other = TrainState(e.changed(seed=7), SHAPE)
    other.load_state_dict(load_checkpoint(tmp_path / '2.pt'))
    ends = [flat(stepped(state, 3, seed=1).state_dict()) for state in (t, other)]
    assert_same_state(*ends)


def test_moments_go_over_between_one_group_of_weights_and_two():
    "Until now a run without weight decay had two groups too: each weight must find its own moments again"
    def state(decay):
        t = TrainState(TINY.changed(weight_decay=decay), (2,))
        gen = torch.Generator().manual_seed(0)
        for _ in range(3): train_step(t, torch.randn(rows_of_a_step(t), 2, generator=gen))
        return t
    for saved, taken in ((1e-7, 0.), (0., 1e-7)):
        source, target = state(saved), TrainState(TINY.changed(weight_decay=taken), (2,))
        target.load_state_dict(source.state_dict())
        for name in ('g', 'd'):
            moments, before = (getattr(t, f'opt_{name}').state for t in (target, source))
            for p, q in zip(getattr(target, name).parameters(), getattr(source, name).parameters()):
                assert_close(moments[p]['exp_avg'], before[q]['exp_avg'], rtol=0, atol=0)
                assert moments[p]['exp_avg'].shape == p.shape


def test_run_trained_on_a_gpu_is_loaded_and_continued_here(tmp_path):
    "A CUDA generator's state is 16 bytes, seed and offset, and no state for one on the CPU"
    e = TINY.changed(steps=36)
    out = stopped(e, tmp_path / 'run', 15)
    on_gpu = newest_checkpoint(out) | dict(gen=torch.zeros(16, dtype=torch.uint8), device='cuda')
    save_checkpoint(out / 'checkpoints' / '15.pt', on_gpu)
    assert load_run(out).sample(3).isfinite().all()
    assert train(e, out).state.progress.step == 36


# --- latent vectors -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('uniform', [False, True])
def test_latent_vectors_are_drawn_from_the_prior_of_the_networks(uniform):
    "Bit for bit: from the state's generator in training, from one of the seed for samples"
    e = TINY.changed(networks='dcgan-radford', width_g=8, width_d=4) if uniform else TINY
    t = TrainState(e, (1, 16, 16))
    n, latent = e.optim.batch, e.networks.latent
    def drawn(gen):
        if uniform: return 2 * torch.rand(n, latent, generator=gen) - 1
        return torch.randn(n, latent, generator=gen)
    ahead = torch.Generator()
    ahead.set_state(t.gen.get_state())
    assert torch.equal(t.generate(), t.g(drawn(ahead)))
    assert torch.equal(t.sample(n, seed=5), t.g_ema(drawn(torch.Generator().manual_seed(5))).clamp(-1, 1))


# --- the average --------------------------------------------------------------------------------------------------

def test_average_follows_its_recursion_and_is_what_is_sampled(tmp_path, monkeypatch):
    e = TINY.changed(ema=.3)      # reached at the fourth step, so that both branches are seen
    seen = []
    def watched(t, y, step=cuda_graph.train_step):
        losses = step(t, y)
        seen.append((weights(t.g), weights(t.g_ema)))
        return losses
    monkeypatch.setattr(cuda_graph, 'train_step', watched)
    run = train(e, tmp_path / 'run')
    average = weights(TrainState(e, SHAPE).g)
    for step, (g, got) in enumerate(seen, 1):
        decay = min(.3, step / (step + 9))
        average = decay * average + (1 - decay) * g
        # a few float32 roundings a step of weights below 2, soon forgotten
        assert_close(got, average, rtol=0, atol=1e-6)
    assert len(seen) == 12 and not torch.equal(*seen[-1])
    z = torch.randn(16, e.networks.latent, generator=torch.Generator().manual_seed(1))
    assert torch.equal(run.sample(16), run.state.g_ema(z).clamp(-1, 1))


def test_average_does_not_change_training(tmp_path):
    with_one, without = [weights(train(TINY.changed(ema=ema), tmp_path / str(ema)).state.g) for ema in (.9, 0.)]
    assert torch.equal(with_one, without)


@pytest.mark.parametrize('name', ['coulomb', 'exact-force'])
def test_without_an_average_the_generator_itself_is_sampled(name):
    t = stepped(TrainState(TINY.changed(objective=name), SHAPE), 2)
    assert t.g_ema is t.g and (t.d is None) == (name == 'exact-force')


# --- inference checkpoints ----------------------------------------------------------------------------------------

@pytest.mark.parametrize('options', [{}, dict(ema=.9), dict(objective='exact-force')], ids=str)
def test_inference_checkpoint_samples_but_does_not_continue(options, tmp_path):
    e = TINY.changed(steps=24, **options)
    whole = train(e, tmp_path / 'whole').out
    small = shutil.copytree(whole, tmp_path / 'small')
    newest = small / 'checkpoints' / '24.pt'
    save_checkpoint(newest, inference_checkpoint(load_checkpoint(newest)))
    # half precision keeps eleven bits of weights of size 1, a few layers deep
    assert_close(load_run(small).sample(5), load_run(whole).sample(5), rtol=0, atol=.02)
    assert newest.stat().st_size < .6 * (whole / 'checkpoints' / newest.name).stat().st_size
    half = stopped(e, tmp_path / 'half', 15)
    for path in half.glob('checkpoints/*.pt'): save_checkpoint(path, inference_checkpoint(load_checkpoint(path)))
    with pytest.raises(RunError, match='holds an inference checkpoint.*can be sampled, not continued') as caught: train(e, half)
    assert '\n' not in str(caught.value)
