"""Losses that are not finite, signals, and denormal numbers: what was saved stays good."""
import signal
import threading

import pytest
import torch

from coulomb_gan.files import RunError
from coulomb_gan.training import cuda_graph
from coulomb_gan.training import fit as fitting
from coulomb_gan.training.algorithm import train_step
from coulomb_gan.training.safeguards import FiniteLosses, Interrupted, flushed, stop_signals
from coulomb_gan.training.state import TrainState
from faults import at_call, send
from tiny_runs import GAMES, TINY, tiny, last_step, state, steps_saved, train

# The softening shrinks by 10^(9/40) a step, so k(0) = eps^-8 and then its square leave float32 after a dozen steps.
EXPLODING = TINY.changed(steps=40, d=8., eps_end=1e-9, eval_every=5, log_every=5)


def all_finite(out): return all(v.isfinite().all() for v in state(out).values() if isinstance(v, torch.Tensor))

@torch.no_grad()
def broken(net): next(net.parameters()).fill_(torch.nan)

def break_g(t, y): broken(t.g)

def break_d(t, y): broken(t.d)


# --- losses and weights -------------------------------------------------------------------------------------------

def test_loss_that_is_not_finite_names_the_step_and_the_checkpoint(tmp_path):
    out = tmp_path / 'run'
    with pytest.raises(RunError, match=r'not finite at step 1[1-4]; the last good one is 10\.pt') as caught:
        train(EXPLODING, out)
    assert '\n' not in str(caught.value)
    assert steps_saved(out) == [5, 10] and last_step(out) == 10
    assert all_finite(out)


@pytest.mark.parametrize('name', GAMES)
def test_named_step_is_the_first_that_is_not_finite(name, tmp_path):
    with at_call(cuda_graph, 'train_step', 8, break_g):
        with pytest.raises(RunError, match=r'not finite at step 8; the last good one is 6\.pt'):
            train(tiny(**GAMES[name]), tmp_path / 'run')
    assert steps_saved(tmp_path / 'run') == [6] and all_finite(tmp_path / 'run')


def test_stop_after_the_loss_broke_does_not_save_it(tmp_path):
    asked_to_stop = at_call(cuda_graph, 'train_step', 14, lambda: send(signal.SIGTERM), after=True)
    with asked_to_stop, pytest.raises(RunError, match='not finite') as caught: train(EXPLODING, tmp_path / 'run')
    assert not isinstance(caught.value, Interrupted)
    assert steps_saved(tmp_path / 'run') == [5, 10] and all_finite(tmp_path / 'run')


def test_weights_that_break_at_an_evaluation_are_not_saved(tmp_path):
    "The loss of a step is known before its update: the update may break the weights"
    with at_call(cuda_graph, 'train_step', 12, break_g, after=True), pytest.raises(RunError, match=r'step 12.*6\.pt'):
        train(TINY, tmp_path / 'run')
    assert steps_saved(tmp_path / 'run') == [6]


def test_discriminator_that_breaks_at_an_evaluation_is_not_saved(tmp_path):
    with at_call(cuda_graph, 'train_step', 6, break_d, after=True), pytest.raises(RunError, match='there is no checkpoint'):
        train(TINY, tmp_path / 'run')
    assert steps_saved(tmp_path / 'run') == []


def test_a_run_that_broke_goes_on_from_its_last_good_step(tmp_path):
    with at_call(cuda_graph, 'train_step', 8, break_g), pytest.raises(RunError): train(TINY, tmp_path / 'run')
    train(TINY, tmp_path / 'run')
    assert last_step(tmp_path / 'run') == 12 and all_finite(tmp_path / 'run')


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize('place', [0, 1])
def test_either_loss_is_seen(value, place, tmp_path):
    t, losses = TrainState(TINY, (1, 8, 8)), [torch.tensor(1.), torch.tensor(1.)]
    finite = FiniteLosses('cpu')
    finite.see(tuple(losses), 3)
    finite.check(t, tmp_path)
    losses[place] = torch.tensor(value)
    finite.see(tuple(losses), 4)
    finite.see((torch.tensor(0.), torch.tensor(0.)), 5)
    with pytest.raises(RunError, match='not finite at step 4; there is no checkpoint'): finite.check(t, tmp_path)


# --- signals ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_handlers_return_however_the_block_ends(number):
    def own(*args): pass
    before = signal.signal(number, own)
    try:
        with stop_signals() as got: signal.raise_signal(number)
        assert got == [number.name] and signal.getsignal(number) is own
        with pytest.raises(ZeroDivisionError), stop_signals(): 1 / 0
        assert signal.getsignal(number) is own
    finally: signal.signal(number, before)


def test_two_signals_stop_once(tmp_path):
    def both():
        for number in (signal.SIGINT, signal.SIGTERM): signal.raise_signal(number)
    with at_call(cuda_graph, 'train_step', 4, both), pytest.raises(Interrupted, match='SIGINT: stopped at step 4;'):
        train(TINY, tmp_path / 'run')


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path):
    "Only the main thread may set handlers"
    before, ended = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: ended.append(train(TINY, tmp_path / 'run').state.progress.step))
    thread.start()
    thread.join()
    assert ended == [12] and signal.getsignal(signal.SIGTERM) is before


def test_a_signal_at_the_last_step_does_not_keep_a_run_from_ending(tmp_path):
    with at_call(fitting, 'append_metrics', 4, lambda: send(signal.SIGTERM), after=True):
        assert train(TINY, tmp_path / 'run').state.progress.finished
    assert (tmp_path / 'run' / 'result.json').exists()


# --- denormal numbers ---------------------------------------------------------------------------------------------

def is_flushed(): return (torch.tensor([1e-40]) * 1 == 0).item()


def test_denormal_numbers_are_zero_while_a_run_trains_and_only_then(tmp_path):
    inside = []
    with at_call(cuda_graph, 'train_step', 3, lambda: inside.append(is_flushed())): train(TINY, tmp_path / 'run')
    assert inside == [True] and not is_flushed()
    with pytest.raises(ZeroDivisionError), flushed(): 1 / 0
    assert not is_flushed()


def test_they_return_after_a_run_that_broke(tmp_path):
    with at_call(cuda_graph, 'train_step', 2, break_g), pytest.raises(RunError): train(TINY, tmp_path / 'run')
    assert not is_flushed() and cuda_graph.train_step is train_step
