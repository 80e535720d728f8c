"""Words that must not come back: each has one better, which the field knows or a newcomer can guess.

Searched are the cells of the notebooks, the tests, the benchmarks, the README, the book's own files and what `--help` prints.
"""
import re
from pathlib import Path

import pytest

from test_style import NOTEBOOKS, ROOT, load

# Names of version 0.1, which stand where its files are read and where its options are answered with the new ones
OLD_FIELDS = r'\bself-?( ?)charge'
OLD_SHARE = r'\blabel share|share of the label|label of the diagonal'
OLD_HINGES = r'\bfolds\b|\bspread d\b'
OLD_METHODS = r'\bwide-dropped\b|\bnarrow pair\b'
READS_OLD = re.compile(r'\d_config|\d_older_runs|\d_presets|test_config|test_older_runs|test_presets')

# pattern (any case; `_` is read as a space) -> what to say, and a phrase in which it is found
WORDS = {
    r'slim checkpoints?|\bslim ?\(': ('inference checkpoint', 'a slim checkpoint'),
    r'\bdials?\b': ('scheduled values', 'the step and its dials'),
    r'\bone launch a step': ('the training step as a CUDA graph', 'One launch a step'),
    r'\banother game|\bordinary games?': ('another objective', 'another field, or another game'),
    r'\bordinary gans?\b': ('standard GAN', 'an ordinary GAN'),
    r'\buntold\b': ('unknown', 'an untold number'),
    r'\bforetold\b': ('predicted', 'as foretold'),
    r'\bdearer\b': ('more costly', 'a dearer step'),
    OLD_FIELDS: ('self term', 'without self_charge'),
    OLD_SHARE: ('self term share, the self term', 'label_share(k, n)'),
    r'learned by heart': ('memorized', 'Learned by heart?'),
    r'whole or not at all': ('atomically', 'written whole or not at all'),
    r'\bknobs?\b': ('setting, hyperparameter', 'every knob of a run'),
    r'(?<!multilayer )\bperceptron': ('MLP', 'a small perceptron'),
    r"\bHe's (variance|init|start)": ('Kaiming initialisation', "with He's variances"),
    OLD_HINGES: ('hinges, activation boundaries; hinge_spread', 'folds of the first layer'),
    r'\bstrays?\b|\bstrands?\b': ('outliers, samples between modes', 'strays between the modes'),
    r'(another|this) network\'s eyes|which network looks': ('with another feature extractor', "in another network's eyes"),
    r'\blengths? of \$?z\b': ('latent dimension', 'the length of z'),
    r'\bremembered\b': ('replay buffer; kept', 'remembered generated ones'),
    r'windows? of (\$?n\$?|two|three|four|\d) characters': ('character n-grams', 'windows of four characters'),
    r'numbers next to nothing': ('denormal (subnormal) numbers', 'Numbers next to nothing'),
    r'products are rounded': ('mixed precision (bfloat16 autocast)', 'the products are rounded'),
    r'\b(D\$?|discriminator) is asked\b': ('where D is evaluated', 'where $D$ is asked'),
    r'\blooking took\b|\ba look takes\b': ('evaluation took', 'Looking took 35 of 152 seconds'),
    r'networks of the plane': ('2-D networks', 'the small networks of the plane'),
    r'\bof even\b': ('mode frequencies ... x uniform', '0.77 to 1.14 of even'),
    r'\bplots\.shares\b': ('plots.mode_frequencies', 'plots.shares(counts)'),
    OLD_METHODS: ('say what it is: more charges, without self term, small networks', 'wide-dropped'),
    r'\bnamed distance\b': ('monitored metric', 'the named distance'),
}
FINE = ['multilayer perceptrons', 'a Multilayer perceptron', 'Fold the two halves', 'a folded cell, fourfold', 'dialogue', 'radial',
        'He said', 'a charge of its own', 'the label of a class', 'by heart rate', 'straightforward', 'slimmer', 'the plane', 'evening']


def found(text, where=''):
    "Words of a text that must not come back, each with what surrounds it and what to say"
    line = re.sub(r'[\s_]+', ' ', text)
    faults = []
    for pattern, (instead, _) in WORDS.items():
        if pattern in (OLD_FIELDS, OLD_SHARE, OLD_HINGES, OLD_METHODS) and READS_OLD.search(where): continue
        for m in re.finditer(pattern, line, flags=re.I):
            faults.append(f'{where}: ...{line[max(0, m.start() - 30):m.end() + 30]}... say: {instead}')
    return faults


BOOK = 'nbs/*.md', 'nbs/api/*.md', 'nbs/_ext/*.py', 'nbs/_static/*.js', 'nbs/playground/*'
TEXTS = [p for pattern in ('tests/**/*.py', 'benchmarks/*.py', 'benchmarks/*.md', 'README.md', *BOOK) for p in sorted(ROOT.glob(pattern))
         if p != Path(__file__).resolve()]


def name(path): return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_cells(path):
    faults = [f for cell in load(path).cells for f in found(cell.source, f'{name(path)} #{cell.where.split("#")[-1]}')]
    assert not faults, '\n'.join(['', *faults])


@pytest.mark.parametrize('path', TEXTS, ids=name)
def test_texts(path):
    faults = found(path.read_text(encoding='utf-8'), name(path))
    assert not faults, '\n'.join(['', *faults])


def test_help(run):
    "Of every command, as a user reads it"
    _, out, _ = run('--help')
    commands = re.findall(r'^  ([a-z-]+) ', out.partition('Commands:')[2], flags=re.M)
    assert len(commands) > 4
    texts = [('', out), *((command, run(f'{command} --help')[1]) for command in commands)]
    faults = [f for command, text in texts for f in found(text, f'coulomb-gan {command} --help')]
    assert not faults, '\n'.join(['', *faults])


# --- the test can fail --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('pattern', WORDS)
def test_each_word_is_found_and_its_remedy_is_not(pattern):
    instead, phrase = WORDS[pattern]
    for text in (phrase, phrase.upper(), phrase.replace(' ', '\n'), phrase.replace(' ', '_')):
        assert any(f.endswith(f'say: {instead}') for f in found(text)), text
    assert not found(instead)


def test_other_words_are_fine(): assert not found('; '.join(FINE))


def test_old_names_are_allowed_where_old_files_are_read():
    "And needed there"
    where = [p for p in (*NOTEBOOKS, *TEXTS) if READS_OLD.search(name(p))]
    assert where and any('self_charge' in p.read_text(encoding='utf-8') for p in where)
    assert found('self_charge', 'nbs/1_field/05_potential') and not found('self_charge', 'nbs/6_training/01_config')
