"""`coulomb-gan train encoder`, and its folder where a network to measure with is named."""
from dataclasses import fields

import pytest

from coulomb_gan.files import read_json
from coulomb_gan.reporting import cli_evaluate
from coulomb_gan.training.encoder_state import EncoderSettings
from coulomb_gan.training.train_encoder import load_encoder

TINY = '--width 4 --batch 8 --steps 4'


def test_it_trains_and_says_what_it_is(run):
    code, out, err = run(f'train encoder {TINY} --task labels --kind plain --no-flip --shift 1 --out e')
    encoder = load_encoder('e')
    accuracy = read_json('e/result.json')['metrics']['accuracy']
    assert (code, out) == (0, f'{encoder.name}: accuracy {accuracy:.4g} on held-out images; measure with it by --features e\n')
    assert run(f'train encoder {TINY} --task labels --kind plain --no-flip --shift 1 --out e')[1] == out
    assert read_json('e/config.json')['encoder']['shift'] == 1


def test_default_folder_and_debug(run):
    assert run(f'train encoder {TINY} --debug')[0] == 0
    assert load_encoder('runs/encoder').name.startswith('masked-resnet-')


WRONG = {
    'train encoder --data mixture': (2, 'an encoder is for images, got points'),
    'train encoder --data nowhere': (2, 'nowhere holds no prepared images'),
    'train encoder --data digits --task label': (2, "'label' is not one of 'masked', 'labels'"),
    'train encoder --steps many': (2, "'--steps': 'many'"),
    'train encoder --steps 0': (2, 'steps must lie in'),
    'train encoder --lr_g 1': (2, 'No such option'),
    'train encoder --networks mlp': (2, 'No such option'),
    'train encoder digits': (2, 'unexpected extra argument'),
    'train encoder --device gpu': (2, 'device must be such as'),
    'train encoder --cell 3': (2, 'cell must divide the side 8, got 3'),
    'train digits --task labels': (2, 'No such option'),
    'train encode': (2, "there is no experiment 'encode'"),
    'train': (2, "Missing argument 'NAME'"),
}


@pytest.mark.parametrize('line', WRONG)
def test_what_is_wrong_is_one_line(line, run):
    code, _, err = run(line)
    assert (code, len(err)) == (WRONG[line][0], 1) and WRONG[line][1] in err[0]


def test_other_settings_are_one_line(run):
    run(f'train encoder {TINY} --out e')
    code, _, err = run(f'train encoder {TINY} --seed 1 --out e')
    assert (code, err[-1]) == (1, 'coulomb-gan: e holds another encoder: seed was 0 and is now 1. Use its settings or another --out.')


def test_help_names_every_setting_and_its_default(run):
    code, out, _ = run('train encoder --help')
    text = ' '.join(out.split())
    assert code == 0 and text.startswith('Usage: coulomb-gan train encoder [OPTIONS]') and 'NAME' not in text
    for field in fields(EncoderSettings):
        assert f'--{field.name.replace("_", "-")}' in text and f'[{field.default}]' in text
    assert 'train encoder --help' in run('train --help')[1]


def test_run_is_measured_in_an_encoder(run, monkeypatch):
    monkeypatch.setattr(cli_evaluate, 'render', lambda out, *_: 'page')
    run('train tiny --out r')
    run(f'train encoder {TINY} --out e')
    code, out, _ = run('evaluate r --features e --samples 50')
    assert code == 0 and f'50 samples against 1,347 real images in {load_encoder("e").name}' in out
    assert load_encoder('e').name in read_json('r/result.json')['metrics']


@pytest.mark.parametrize('line, words', [
    ('evaluate r --features nowhere', 'expected FILE.py:FUNCTION, or the folder of an encoder'),
    ('evaluate r --features r', 'r holds no encoder'),
    ('compare tiny --features nowhere', 'expected FILE.py:FUNCTION, or the folder of an encoder'),
    ('compare tiny --features r', 'r holds no encoder')])
def test_what_is_no_encoder(line, words, run):
    run('train tiny --out r')
    code, _, err = run(line)
    assert code in (1, 2) and words in err[-1]


def test_an_encoder_is_no_run(run):
    run(f'train encoder {TINY} --out e')
    for line in ('evaluate e', 'sample e --out x', 'export e'):
        code, _, err = run(line)
        assert code == 1 and 'Traceback' not in '\n'.join(err) and 'e holds an encoder, expected the run' in err[-1], line
