"""Every field of every record is an option, in its section of the help; other and older names are one line."""
import re
from dataclasses import dataclass
from functools import reduce

import pytest
from fastcore.docments import docments

from coulomb_gan.networks.base import NETWORKS
from coulomb_gan.objectives.base import OBJECTIVES, Objective
from coulomb_gan.objectives.penalties import GradientPenalty
from coulomb_gan.options import Options, flat_fields
from coulomb_gan.reporting.cli_options import Setting, settings
from coulomb_gan.training.config import RENAMED, Experiment, Optimisation, Record, owners
from coulomb_gan.training.presets import EXPERIMENTS, OLD_METHODS

COMMANDS = ['show', 'train', 'reproduce', 'compare']
RECORDS = [*(('Networks', f'--networks {name}', record) for name, record in NETWORKS.items()),
           *(('Objective', f'--objective {name}', record) for name, record in OBJECTIVES.items()),
           ('Optimisation', '', Optimisation), ('Record', '', Record)]      # section, how it is chosen, fields
FIELDS = [(section, chosen, flat, record) for section, chosen, record in RECORDS for flat in flat_fields(record)]
TEXTS = dict(device='cuda', monitor='ngrams', encoder='digits', heads='mean,std', widths='0.5')      # another value of a text


def flag(name): return '--' + name.replace('_', '-')

def joined(text): return re.sub(r'\s', '', text)

def holder(record, path):
    "The class of records that has the last field of a path"
    for name in path[:-1]: record = type(getattr(record(), name))
    return record

def another(record, path, field):
    "A value that is not the default, as it is written on a command line and as it is shown"
    choices = holder(record, path).choices.get(field.name)
    usual = reduce(getattr, path, record())      # an objective may give a part of it another default
    if choices: return next(choice for choice in choices if choice != usual)
    if isinstance(field.default, str): return TEXTS[field.name]
    if isinstance(field.default, bool): return not field.default
    return 7 if isinstance(field.default, int) else .375

def sections(text):
    "Of a help: title -> flags; settings stand in rows, titles before them"
    found, flags = {}, []
    for line in text.splitlines():
        title = re.fullmatch(r'(\w+):', line)
        option = re.match(r'  (--[\w-]+)', line)
        row = re.match(r'  (\w+) +(?=--)', line)
        if title: flags = found[title[1]] = []
        elif option: flags.append(option[1])
        elif row: flags = found[row[1]] = line.split()[1:]
        elif line.startswith(' ' * 12): flags += re.findall(r'(?<= )--[\w-]+', line)
    return found


NEEDED = {'keep_self_weight': ' --eps-end .5', 'fresh_from': ' --fresh 24', 'init_g': ' --no-batch-norm-g',
          'penalty_noise': ' --penalty-at around', 'penalty_spread': ' --penalty-at around'}  # what must be given with it
NEEDED_BY = {('--objective drifting', 'd'): ' --field plummer'}  # the same, for one objective


# --- each is an option --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('section, chosen, name, record', FIELDS, ids=lambda v: v if isinstance(v, str) else '')
def test_every_field_is_settable(section, chosen, name, record, run):
    path, field = flat_fields(record)[name]
    value = another(record, path, field)
    chosen += NEEDED.get(name, '') + NEEDED_BY.get((chosen, name), '')
    before = run(f'show tiny {chosen}')[1].splitlines()
    given = f'{flag(name)} {value}'
    if isinstance(value, bool): given = flag(name) if value else '--no-' + flag(name)[2:]
    code, out, err = run(f'show tiny {chosen} {given}')
    after = out.splitlines()
    assert (code, err) == (0, []) and f'{name} = {value}' in after
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [new for _, new in changed] == [f'{name} = {value}']


@pytest.mark.parametrize('given', ['data elsewhere', *(f'networks {name}' for name in NETWORKS),
                                   *(f'objective {name}' for name in OBJECTIVES)])
def test_every_part_is_settable(given, run):
    code, out, err = run(f'show tiny --{given}')
    assert (code, err) == (0, []) and given.replace(' ', ' = ') in out.splitlines()


@pytest.mark.parametrize('command', COMMANDS)
def test_help_has_every_field_in_its_section(command, run, monkeypatch):
    code, out, err = run(f'{command} --help')
    assert (code, err) == (0, [])
    found = sections(out)
    found.pop('Jobs', None)  # of commands that start them
    assert [*found] == ['Options', 'Data', 'Networks', 'Objective', 'Optimisation', 'Record']
    want = {section: [] for section in found}
    want |= {'Data': ['--data'], 'Networks': ['--networks'], 'Objective': ['--objective']}
    for section, _, name, _ in FIELDS: want[section].append(flag(name))
    for section in [*found][1:]: assert sorted(found[section]) == sorted({*want[section]})
    assert len(out.splitlines()) <= 65
    assert '--help' in found['Options'] and not {*found['Options']} & {f for s in [*found][1:] for f in found[s]}


def test_help_says_what_each_means(run):
    "Its comment, with the names of the records where they differ in it"
    text = joined(run('settings')[1])
    for part in ('data', 'networks', 'objective'): assert joined(docments(Experiment)[part]) in text
    for _, _, name, record in FIELDS:
        path, field = flat_fields(record)[name]
        classes = [cls for cls in holder(record, path).__mro__ if issubclass(cls, Options)]
        comment = next(filter(None, (docments(cls).get(field.name) for cls in classes)))
        assert joined(comment) in text, name
    for name in (*NETWORKS, *OBJECTIVES): assert name in text
    assert joined('[wgan-gp] updates of D in one step') in text


@pytest.mark.parametrize('word, want', [('lr-g', ['--lr-g']), ('lr_g', ['--lr-g']), ('data', ['--data']),
                                        ('wgan-gp-dcgan', ['--latent', '--width-g', '--width-d'])])
def test_settings_are_found_by_a_word(word, want, run):
    code, out, err = run(f'settings {word}')
    assert (code, err) == (0, []) and re.findall(r'^  (--[\w-]+)', out, flags=re.M) == want


def test_a_word_that_finds_nothing_is_one_line(run):
    code, out, err = run('settings lr-q')
    assert (code, out) == (2, '') and len(err) == 1 and 'lr-g' in err[0]


def test_a_registered_objective_brings_its_options(monkeypatch):
    "With those of a part inside it; a name that several have is one option with several meanings"
    @dataclass(frozen=True)
    class Other(Objective):
        "As a later chapter may add."
        strength: float = 2.  # of something
        eps: float = 1.  # width of something else
        penalty: GradientPenalty = GradientPenalty()  # on D
    before = {setting.name: setting for setting in settings()}
    monkeypatch.setitem(OBJECTIVES, 'other', Other)
    found = {setting.name: setting for setting in settings()}
    assert len(settings()) == len(found) and found.keys() - before.keys() == {'strength'}
    assert found['strength'] == Setting('strength', 'Objective', float, {'of something': ['other']})
    assert [*found['eps'].meanings.values()] == [['coulomb', 'exact-force'], ['other']]
    owning, = found['penalty_weight'].meanings.values()
    assert {*owning} == {'gan-gp', 'dragan', 'wgan-gp', 'other'}
    assert 'penalty' not in found


# --- others are one line ------------------------------------------------------------------------------------------

def refused(run, line):
    code, out, err = run(line)
    assert code == 2 and out == '' and len(err) == 1 and err[0].startswith('coulomb-gan: ')
    return err[0].removeprefix('coulomb-gan: ')


ALIEN = [(objective, networks, name) for objective in OBJECTIVES for networks in NETWORKS
         for name in {name for record in (*OBJECTIVES.values(), *NETWORKS.values()) for name in flat_fields(record)}
         if name not in flat_fields(OBJECTIVES[objective]) and name not in flat_fields(NETWORKS[networks])]


@pytest.mark.parametrize('objective', OBJECTIVES)
@pytest.mark.parametrize('networks', NETWORKS)
def test_an_option_of_what_was_not_chosen_is_one_line(objective, networks, run):
    "That says for what it is"
    names = sorted(name for o, n, name in ALIEN if (o, n) == (objective, networks))
    assert names
    for name in names:
        record = next(r for r in (*OBJECTIVES.values(), *NETWORKS.values()) if name in flat_fields(r))
        path, field = flat_fields(record)[name]
        value = another(record, path, field)
        given = flag(name) if isinstance(value, bool) else f'{flag(name)} {value}'
        said = refused(run, f'show tiny --networks {networks} --objective {objective} {given}')
        assert said == (f'{name} is not for networks {networks!r} and objective {objective!r}; '
                        f'it is for {", ".join(owners(name))}')


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('old', RENAMED)
def test_old_names_are_answered_with_the_new(old, command, run):
    said = refused(run, f'{command} tiny {flag(old)} 1')
    assert said == f'{flag(old)} was renamed to {flag(RENAMED[old])}'
    assert RENAMED[old] in {name for _, _, name, _ in FIELDS} and old not in {name for _, _, name, _ in FIELDS}


def test_old_names_of_choices_are_answered_with_the_new(run):
    for old, new in OBJECTIVES.renamed.items():
        assert refused(run, f'show tiny --objective {old}') == f'the objective {old!r} was renamed to {new!r}'
    for old, new in OLD_METHODS.items():
        assert refused(run, f'compare tiny --methods coulomb,{old}') == f'the method {old!r} was renamed to {new!r}'
    assert 'mixture-exact-force' in EXPERIMENTS
    for command in COMMANDS: assert "'mixture-exact-force'" in refused(run, f'{command} mixture-direct')
    assert refused(run, 'show mixture-direct') == "the experiment 'mixture-direct' was renamed to 'mixture-exact-force'"


WRONG = {
    '--bacht 64': '--batch',
    '--batch': '--batch',
    '--batch x': '--batch',
    '--batch 2.5': '--batch',
    '--batch 0': 'batch must',
    '--batch -3': 'batch must',
    '--batch 1': 'batch must lie in [2, ',
    '--steps 1e3': '--steps',
    '--steps 0': 'steps must',
    '--latent 0': 'latent must',
    '--depth-g 0': 'depth_g must',
    '--width-g 0': 'width_g must',
    '--eps nan': 'eps must',
    '--eps 0': 'eps must',
    '--eps inf': 'eps must',
    '--eps-end 0': 'eps_end must',
    '--eps-end nan': 'eps_end must',
    '--d -1': 'd must',
    '--d nan': 'd must',
    '--lr-g -1': 'lr_g must',
    '--lr-d 2': 'lr_d must',
    '--beta1 1': 'beta1 must',
    '--beta2 1': 'beta2 must',
    '--ema 1': 'ema must',
    '--ema nan': 'ema must',
    '--smoothing -1': 'smoothing must',
    '--weight-decay -1': 'weight_decay must',
    '--lr-end 2': 'lr_end must',
    '--patience 0': 'patience must',
    '--log-every 0': 'log_every must',
    '--eval-every 0': 'eval_every must',
    '--eval-samples 0': 'eval_samples must',
    '--eval-samples 1': 'eval_samples must',      # the unbiased energy needs two
    '--seed -1': 'seed must',
    '--seed x': '--seed',
    '--decay linear': 'plateau',
    '--precision half': 'bfloat16',
    '--networks dcgn': 'dcgan',
    '--device gpu': "'gpu'",
    '--device meta': "'meta'",
    '--self-term -1': 'self_term must', '--keep-self-weight': 'keep_self_weight needs a softening that shrinks: give eps_end',
    '--charges -1': 'charges must',
    '--replay -1': 'replay must',
    '--objective gan': "did you mean 'began'?",
    '--objective dragon': "did you mean 'dragan'?",
    '--objective qqqq': 'expected one of coulomb, exact-force',
    '--activation-d relu': 'elu',
    '--objective wgan-gp --charges 128': "charges is not for networks 'mlp' and objective 'wgan-gp'",
    '--objective non-saturating --replay 256': "replay is not for networks 'mlp' and objective 'non-saturating'",
    '--objective exact-force --alternating': "alternating is not for networks 'mlp' and objective 'exact-force'",
    '--objective wgan-gp --critic-steps 0': 'critic_steps must',
    '--objective wgan-gp --penalty-weight -1': 'weight must',
    '--objective wgan-gp --penalty-target nan': 'target must',
    '--objective dragan --penalty-spread 0': 'spread must',
    '--objective dragan --penalty-noise pink': 'released',
    '--objective gan-gp --penalty-at here': 'around',
    '--objective minimax --r1 -1': 'r1 must',
    '--objective gan-gp --r1 1': "it is for objective 'non-saturating', objective 'minimax'",
    '--energy-eps 0': 'energy_eps must'}


@pytest.mark.parametrize('given', WRONG)
def test_wrong_values_are_one_line(given, run): assert WRONG[given] in refused(run, f'show digits {given}')
