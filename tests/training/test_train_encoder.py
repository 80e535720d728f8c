"""Encoders that are trained, killed, stopped, continued, read back, measured with; and what is refused."""
import os
import shutil
import signal
from dataclasses import fields, replace

import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.data.datasets import digits, to_float
from coulomb_gan.files import RunError, read_json, write_json
from coulomb_gan.metrics.feature_extractors import features
from coulomb_gan.reporting.cli import main
from coulomb_gan.training import encoder_state
from coulomb_gan.training import train_encoder as training
from coulomb_gan.training.encoder_state import EncoderSettings, EncoderState, augmented, encoder_step, held_out
from coulomb_gan.training.fit import fit
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.run_folder import load_checkpoint, newest_checkpoint
from coulomb_gan.training.safeguards import Interrupted
from coulomb_gan.training.train_encoder import encoder_extractor, load_encoder, train_encoder
from faults import at_call, die, fill_the_disk, in_child, send
from tiny_runs import TINY, contents, last_step, records, result, steps_saved

SMALL = EncoderSettings(width=4, batch=8, steps=12, log_every=3, eval_every=6)
TASKS = {'masked': SMALL, 'labels': replace(SMALL, task='labels'), 'plain': replace(SMALL, kind='plain', flip=True, shift=2)}


def train(settings, out): return train_encoder(settings, out, progress=False)

def weights(out): return newest_checkpoint(out)['net']

def assert_same_end(one, other):
    assert records(one) == records(other)
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    made = tmp_path_factory.mktemp('whole')
    return {name: train(settings, made / name) for name, settings in TASKS.items()}


# --- the same bits ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', TASKS)
def test_two_trainings_are_equal(name, whole, tmp_path):
    torch.manual_seed(5)      # the global generator has no part in it
    assert_same_end(train(TASKS[name], tmp_path / 'run'), whole[name])


@pytest.mark.parametrize('name', TASKS)
@pytest.mark.parametrize('step', [3, 6, 9])
def test_stopped_at_a_step_ends_the_same(name, step, whole, tmp_path):
    out = tmp_path / 'run'
    ask = at_call(training, 'append_metrics', step // 3, lambda: send(signal.SIGTERM), after=True)
    with ask, pytest.raises(Interrupted, match=f'SIGTERM: stopped at step {step};'): train(TASKS[name], out)
    assert max(steps_saved(out)) == step and not (out / 'result.json').exists()
    with pytest.raises(RunError, match='holds an encoder that is not finished'): load_encoder(out)
    train(TASKS[name], out)
    assert_same_end(out, whole[name])


@pytest.mark.filterwarnings('ignore:.*it is taken over')
@pytest.mark.parametrize('owner, name, number', [(training, 'append_metrics', 3), (os, 'replace', 4), (os, 'fsync', 5)],
                         ids=['append_metrics', 'replace', 'fsync'])
def test_killed_ends_the_same(owner, name, number, whole, tmp_path):
    out = tmp_path / 'run'
    def work():
        at_call(owner, name, number, die)
        train(SMALL, out)
    assert in_child(work) == -signal.SIGKILL and not (out / 'result.json').exists()
    train(SMALL, out)
    assert_same_end(out, whole['masked'])


def test_full_disk_leaves_what_was_saved(whole, tmp_path):
    out = tmp_path / 'run'
    def work():
        at_call(training, 'save_checkpoint', 2, lambda: fill_the_disk(2000))
        with pytest.raises(RunError, match='cannot write'): train(SMALL, out)
    assert in_child(work) == 0
    assert steps_saved(out) == [6] and load_checkpoint(out / 'checkpoints/6.pt')['progress']['step'] == 6
    train(SMALL, out)
    assert_same_end(out, whole['masked'])


def test_finished_is_not_trained_again(whole, tmp_path):
    out = shutil.copytree(whole['masked'], tmp_path / 'run')
    before = contents(out)
    train(SMALL, out)
    train(replace(SMALL, device='cpu'), out)
    assert contents(out) == before


def test_the_comparison_can_fail(whole, tmp_path):
    with pytest.raises(AssertionError): assert_same_end(train(replace(SMALL, seed=1), tmp_path / 'run'), whole['masked'])


# --- what it leaves -----------------------------------------------------------------------------------------------

def test_result_and_configuration(whole):
    for name, out in whole.items():
        settings, found = TASKS[name], result(out)
        assert (found['steps'], found['seed'], found['data_digest']) == (12, 0, digits().digest)
        assert {'seconds', 'hardware', 'commit', 'torch', 'python'} <= found.keys()
        assert [*found['metrics']] == ['accuracy' if name == 'labels' else 'error']
        assert found['metrics'].items() <= records(out)[-1].items()
        config = read_json(out / 'config.json')
        assert EncoderSettings(**config['encoder']) == settings
        assert (config['dataset']['classes'], config['dataset']['shape']) == (10, [1, 8, 8])
        assert [line['step'] for line in records(out)] == [3, 6, 9, 12] and steps_saved(out) == [6, 12]


CHANGES = dict(data='mixture', task='labels', kind='plain', width=6, steps=11, batch=7, lr=1e-3, weight_decay=1., cell=4, flip=True,
               shift=1, seed=1, device='cuda', log_every=2, eval_every=5)


def test_every_field_is_changed(): assert [*CHANGES] == [field.name for field in fields(EncoderSettings)]


@pytest.mark.parametrize('name', [name for name in CHANGES if name not in ('data', 'device')])
def test_every_field_changes_the_training_and_is_refused_in_its_folder(name, whole, tmp_path):
    other = replace(SMALL, **{name: CHANGES[name]})
    with pytest.raises(RunError, match=f'holds another encoder: {name} was '): train(other, whole['masked'])
    with pytest.raises(AssertionError): assert_same_end(train(other, tmp_path / 'run'), whole['masked'])


def test_rate_falls_as_half_a_cosine():
    t = EncoderState(replace(SMALL, steps=4, lr=.01), (1, 8, 8), 0)
    rates = []
    for _ in range(4):
        encoder_step(t, torch.zeros(2, 1, 8, 8), None)
        rates.append(t.opt.param_groups[0]['lr'])
    assert_close(torch.tensor(rates), .01 * torch.tensor([1., .5 + .125**.5, .5, .5 - .125**.5]))


def test_kernels_decay_and_nothing_else():
    t = EncoderState(SMALL, (1, 8, 8), 0)
    kernels, others = t.opt.param_groups
    assert (kernels['weight_decay'], others['weight_decay']) == (SMALL.weight_decay, 0)
    assert all(p.ndim > 1 for p in kernels['params']) and all(p.ndim == 1 for p in others['params'])
    assert len(kernels['params']) + len(others['params']) == len(t.weights)


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('shift', [0, 1, 3, 7])
def test_augmented_is_a_cut_of_the_bordered_image(flip, shift):
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(20, 2, 8, 8, generator=gen)
    found = augmented(x, flip, shift, gen)
    bordered = torch.nn.functional.pad(x, [shift] * 4, mode='reflect')
    for i in range(20):
        cuts = [bordered[i, :, a:a + 8, b:b + 8] for a in range(2 * shift + 1) for b in range(2 * shift + 1)]
        if flip: cuts += [cut.flip(-1) for cut in cuts]
        assert any(torch.equal(found[i], cut) for cut in cuts)


def test_held_out_in_blocks_is_the_whole():
    t = EncoderState(replace(SMALL, task='labels'), (1, 8, 8), 10)
    data = digits()
    right = t.net(to_float(data.test)).argmax(1) == data.test_labels
    assert held_out(t, data)['accuracy'] == right.double().mean().item()
    assert held_out(t, data, most=7)['accuracy'] == right[:7].double().mean().item()
    assert held_out(EncoderState(SMALL, (1, 8, 8), 10), data) == held_out(EncoderState(SMALL, (1, 8, 8), 10), data)


# --- read back ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, columns', [('masked', 6), ('labels', 128), ('plain', 6)])
def test_encoder_and_its_features(name, columns, whole):
    encoder, space = load_encoder(whole[name]), encoder_extractor(whole[name])
    task = 'labels' if name == 'labels' else 'masked'
    kind = 'plain' if name == 'plain' else 'resnet'
    assert encoder.name == space.name == f'{task}-{kind}-{encoder.digest[:8]}' and len(encoder.digest) == 16
    x = digits().test[:30]
    found = torch.cat([*features(space, x, batch=7)])
    assert found.shape == (30, columns)
    assert_close(found, encoder.features(to_float(x)))
    assert [tuple(m.shape) for m in encoder(to_float(x))] == [(30, 2, 8, 8), (30, 4, 4, 4)]
    assert not any(p.requires_grad for p in encoder.net.parameters())
    y = to_float(x).requires_grad_()
    assert torch.autograd.grad(encoder(y)[-1].sum(), y)[0].abs().max() > 0


def test_digest_is_that_of_the_weights(whole, tmp_path):
    names = {load_encoder(out).digest for out in whole.values()}
    assert len(names) == 3 and load_encoder(shutil.copytree(whole['masked'], tmp_path / 'a')).digest in names


@pytest.mark.parametrize('images, got', [
    (torch.zeros(2, 3, 8, 8), r'torch.float32 \(2, 3, 8, 8\)'), (torch.zeros(1, 8, 8), r'torch.float32 \(1, 8, 8\)'),
    (torch.zeros(2, 1, 8, 8).byte(), 'torch.uint8')], ids=['colour', 'single', 'bytes'])
def test_other_images_are_refused(images, got, whole):
    encoder = load_encoder(whole['masked'])
    for call in (encoder, encoder.features):
        with pytest.raises(ValueError, match=rf'{encoder.name}: got images of {got}.*expected float32 in'): call(images)


def test_extractor_refuses_other_images(whole):
    with pytest.raises(ValueError, match='got images of'): [*features(encoder_extractor(whole['masked']), torch.zeros(2, 3, 16, 16))]


# --- refused ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('changes, words', [
    (dict(data='mixture'), 'for images, got points'), (dict(data='text-builtin'), 'for images, got text'),
    (dict(data='nowhere'), 'nowhere holds no prepared images'),
    (dict(cell=3), 'cell must divide the side 8, got 3'), (dict(cell=16), 'cell must divide'),
    (dict(shift=8), 'shift must be below the side 8, got 8')], ids=str)
def test_what_cannot_be_trained_leaves_the_folder_free(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words): train(replace(SMALL, **changes), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('changes, words', [
    (dict(task='label'), 'task must be one of masked, labels'), (dict(kind='unet'), 'kind must be one of resnet, plain'),
    (dict(width=1), 'width must lie in'), (dict(lr=2.), 'lr must lie in'), (dict(device='gpu'), 'device must be such as'),
    (dict(steps=0), 'steps must lie in'), (dict(flip=1), 'flip must be of type bool')], ids=str)
def test_wrong_values(changes, words):
    with pytest.raises(ValueError, match=words): replace(SMALL, **changes)


def test_pictures_without_labels_have_no_classes(images, tmp_path):
    with pytest.raises(ValueError, match='no labels of two or more classes; use --task masked'):
        train(replace(SMALL, data=images, task='labels'), tmp_path / 'run')
    train(replace(SMALL, data=images), tmp_path / 'run')
    assert load_encoder(tmp_path / 'run').shape == (3, 16, 16)
    with pytest.raises(RunError, match='trained on other data: .*digest was'): train(SMALL, tmp_path / 'run')


@pytest.mark.parametrize('changes, words', [
    (dict(test=torch.zeros(0, 1, 8, 8).byte()), '1347 images to train on and 0 held out'),
    (dict(test_labels=None), 'no labels'), (dict(train_labels=None), 'no labels'),
    (dict(train_labels=torch.zeros(1347).long(), test_labels=torch.zeros(450).long()), 'no labels of two or more')], ids=lambda x: '')
def test_other_parts(changes, words, monkeypatch, tmp_path):
    monkeypatch.setattr(encoder_state, 'load', lambda name: replace(digits(), **changes))
    with pytest.raises(ValueError, match=words): train(TASKS['labels'], tmp_path / 'run')


def test_the_same_data_elsewhere_are_the_same(images, tmp_path):
    settings = replace(SMALL, data=images)
    train(settings, tmp_path / 'run')
    train(replace(settings, data=str(shutil.copytree(images, tmp_path / 'moved'))), tmp_path / 'run')


@pytest.mark.parametrize('number', [1, 8])
def test_a_loss_that_is_not_finite_stops(number, tmp_path):
    "Seen at the next line of metrics, nothing broken is saved, and it goes on from what was"
    out, last = tmp_path / 'run', 'there is no checkpoint' if number < 6 else 'the last good one is 6.pt'
    def break_it(t, *_): t.weights[0].data.fill_(torch.nan)
    with at_call(training, 'encoder_step', number, lambda t, images, labels: break_it(t)):
        with pytest.raises(RunError, match=f'not finite at step {number}; {last}'): train(SMALL, out)
    assert last_step(out) < number + 3 and steps_saved(out) == ([6] if number > 6 else [])
    train(SMALL, out)
    assert last_step(out) == 12


def test_folders_of_other_kinds(whole, tmp_path):
    fit(TINY, tmp_path / 'run', progress=False)
    with pytest.raises(RunError, match='holds no encoder'): train(SMALL, tmp_path / 'run')
    for load in (load_encoder, encoder_extractor):
        with pytest.raises(RunError, match='holds no encoder'): load(tmp_path / 'run')
        with pytest.raises(RunError, match='holds no encoder'): load(tmp_path / 'nothing')
    with pytest.raises(RunError, match='holds an encoder, expected'): load_run(whole['masked'])
    with pytest.raises(RunError): fit(TINY, shutil.copytree(whole['masked'], tmp_path / 'encoder'), progress=False)


def test_other_versions(whole, tmp_path):
    for option, value, words in (('new', 1, 'is not of this version'), ('width', 8, 'its encoder has other layers')):
        out = shutil.copytree(whole['masked'], tmp_path / option)
        config = read_json(out / 'config.json')
        config['encoder'][option] = value
        write_json(out / 'config.json', config)
        with pytest.raises(RunError, match=words): load_encoder(out)


def test_damaged_checkpoint_is_passed_over(whole, tmp_path):
    out = shutil.copytree(whole['masked'], tmp_path / 'run')
    (out / 'checkpoints/12.pt').write_bytes(b'nothing')
    (out / 'result.json').unlink()
    with pytest.warns(UserWarning, match='12.pt is damaged'), pytest.raises(RunError, match='not finished'): load_encoder(out)
    with pytest.warns(UserWarning, match='12.pt is damaged'): train(SMALL, out)
    assert_same_end(out, whole['masked'])


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_without_a_gpu(tmp_path):
    with pytest.raises(RunError, match='no CUDA device; use --device cpu'): train(replace(SMALL, device='cuda'), tmp_path / 'run')


def test_main_trains(tmp_path, capsys):
    with pytest.raises(SystemExit) as done: main(f'train encoder --width 4 --batch 8 --steps 2 --out {tmp_path / "run"}'.split())
    assert done.value.code == 0 and capsys.readouterr().out.startswith('masked-resnet-')
