"""The ledger of 00_paper: every numbered statement has a row, and every row names a section that exists."""
import re
from collections import Counter

from test_style import NOTEBOOKS, ROOT, load

STATUSES = {'definition', 'holds', 'holds with a condition', 'fails as stated', 'open', 'reproduced', 'not yet run'}
UNSETTLED = {'open', 'not yet run'}

# The papers' own numbering, and ours of two others: what each number stands for in its text, by a phrase that its row must contain
NUMBERING = {
    'P1': 'the potential is', 'P2': 'continuity', 'P3': 'velocity written out', 'P4': 'extremum', 'P5': 'Plummer kernel',
    'P6': 'gradient of the potential', 'P7': 'energy', 'P8, P32': 'minibatch potential', 'P9': 'mean square', 'P10': 'maximises',
    'P11': 'product rule', 'P12-P13': 'spherical coordinates', 'P14': 'Laplacian', 'P15': 'r=0', 'P16': 'negative everywhere',
    'P17': 'increases with $r$', 'P18': 'increases with $\\epsilon$', 'P19-P20': 'bounded', 'P21': 'outweighs',
    'P22-P23': 'toward zero', 'P24-P26': '1/t', 'P27': 'local Nash equilibrium', 'P28-P29': 'double integral',
    'P30-P31': 'empirical densities', 'P33': 'minibatch energy', 'P34': 'field at a sample', 'P35': 'unbiased',
    'Theorem 1 (i)': 'falls at the rate', 'Theorem 1 (ii)': 'larger $d$', 'Theorem 1 (iii)': 'densities equal',
    'Theorem 2': 'Nash equilibrium', 'A.1': 'half of the target', 'A.2': 'Theorem 1', 'A.3': 'Theorem 2', 'A.4': 'finite samples',
    'A.5': '25 Gaussians', 'A.6': 'Algorithm 1', 'A.7': 'images', 'Figure 1': 'field', 'Figure 2': 'images', 'Figure 3': 'nearest',
    'Figure 4': 'Tables 4(a) and 4(b)', 'Figure 5': 'densities match', 'Figure 6': 'counts', 'Table 4(a)': 'Jensen-Shannon',
    'Table 4(b), CelebA': 'FID 9.3', 'Table 4(b), LSUN': 'FID 31.2', 'Table 4(b), CIFAR-10': 'FID 27.3',
    'Table 4(a), WGAN-GP': 'JSD-4 0.38', 'Table 4(b), BEGAN, CelebA': 'FID 29.2', 'Table 4(b), BEGAN, LSUN': 'FID 113',
    'Table 4(b), DCGAN, CelebA': 'FID 21.4', 'Table 4(b), DCGAN, LSUN': 'FID 70.4', 'Table 4(b), DCGAN, CIFAR-10': '37.7',
    'Table 4(b), WGAN-GP, CelebA': 'FID 4.8', 'Table 4(b), WGAN-GP, LSUN': 'FID 20.5', 'Table 4(b), WGAN-GP, CIFAR-10': 'FID 29.3',
    'H1': 'converge almost surely', 'H2': 'the example', 'H3': 'unequal rates', 'H4': 'heavy ball', 'H5': 'lower FID',
    'H6': 'six disturbances', 'H7': 'many samples', 'M1': 'flat', 'M2': 'non-saturating', 'M3': 'outside the Wasserstein',
    'M4': 'robust', 'M5': 'Color MNIST', 'M6': 'MS-SSIM',
    'Table 4(b), MMD-GAN, CelebA': 'FID 63.2', 'Table 4(b), MMD-GAN, LSUN': 'FID 94.9', 'Table 4(b), MMD-GAN, CIFAR-10': 'FID 38.2'}
NAMED = {name for name in NUMBERING if not name.startswith('P')}
FALSE_STEP = 'P21'  # of the proof of Theorem 1: the first that fails


def ledger():
    source = '\n'.join(c.source for c in load(ROOT/'nbs/00_paper.ipynb').code)
    source = re.sub(r'\n +', ' ', source)                # an indented line goes on with the one before
    lines = re.findall(r'^(?:[PHM]\d|Theorem|Figure|Table|A\.)[^|\n]* \| .*$', source, flags=re.M)
    return [[field.strip() for field in line.split(' | ')] for line in lines]


def numbers(id):
    ends = [[int(n) for n in re.findall(r'P(\d+)', part)] for part in id.split(',')]
    return [n for e in ends if e for n in range(e[0], e[-1] + 1)]


def sections(nb):
    "Title of each heading, in lower case -> the code from there to the next heading of its level or above"
    found, opened = {}, []
    for cell in nb.cells:
        if cell.kind == 'code':
            for _, title in opened: found[title] += cell.source + '\n'
            continue
        for mark, title in re.findall(r'^(#{1,6}) +(.+?)\s*$', cell.source, flags=re.M):
            opened = [(level, name) for level, name in opened if level < len(mark)] + [(len(mark), title.lower())]
            found.setdefault(title.lower(), '')
    return found


def can_fail(code): return bool(re.search(r'\bassert\b|\bassert_close\(|\btest_(eq|close|fail)\(|refused\(', code))


def faults(rows, notebooks):
    "Every way in which the rows fall short, one line each"
    found = Counter(n for r in rows for n in numbers(r[0]))
    lines = [f'P{n} has {found[n]} rows' for n in range(1, 36) if found[n] != 1]
    lines += [f'{name} has no row' for name in sorted(NAMED - {r[0] for r in rows})]
    for id, *rest in rows:
        if len(rest) != 4 or not all(rest):
            lines.append(f'{id}: got {len(rest) + 1} fields, expected 5, none empty')
            continue
        said, where, _, status = rest
        if NUMBERING.get(id, id) not in said: lines.append(f'{id}: expected the words {NUMBERING.get(id, "of a known row")!r}')
        if status not in STATUSES: lines.append(f'{id}: no such status as {status!r}')
        places = []
        for place in where.split(';'):
            name, _, section = (part.strip() for part in place.partition(':'))
            known = notebooks.get(name, {})
            here = [code for title, code in known.items() if section and section.lower() in title]
            if not here: lines.append(f'{id}: {status}, but {name} has no heading with {section!r}')
            places += here
        settled = status not in UNSETTLED and not where.startswith('experiments/')  # a report's numbers are checked below
        if settled and places and not all(map(can_fail, places)): lines.append(f'{id}: {status}, but no cell there can fail')
    return lines


CODE = {nb.name: sections(nb) for nb in map(load, NOTEBOOKS)}


def test_every_statement_has_a_row_that_points_at_a_section_which_can_refute_it():
    assert not (found := faults(ledger(), CODE)), '\n'.join(['', *found])


def test_steps_before_the_false_one_hold_and_those_after_it_do_not():
    status = {n: row[4] for row in ledger() for n in numbers(row[0])}
    first = int(FALSE_STEP[1:])
    assert all(status[n] == 'holds' for n in range(11, first))
    assert all(status[n] == 'fails as stated' for n in range(first, 27))


def test_a_poor_ledger_is_rejected():
    rows = ledger()
    first = rows[0][:1] + ['the potential is', '1_field/02_kernels: Monotonicity', 'exact', 'holds']
    for bad, complaint in (([*rows[1:]], 'P1 has 0 rows'), ([*rows, rows[0]], 'P1 has 2 rows'),
                           ([first[:4], *rows[1:]], 'got 4 fields'), ([[*first[:4], 'works'], *rows[1:]], 'no such status'),
                           ([[*first[:4], 'not at hand'], *rows[1:]], 'no such status'),
                           ([[first[0], 'the energy', *first[2:]], *rows[1:]], 'expected the words'),
                           ([[*first[:2], '1_field/02_kernels: What we established', *first[3:]], *rows[1:]], 'no cell there can fail'),
                           ([[*first[:2], '', *first[3:]], *rows[1:]], 'none empty'),
                           ([[*first[:2], '1_field/02_kernels: Nowhere', *first[3:]], *rows[1:]], "no heading with 'Nowhere'"),
                           ([r for r in rows if r[0] != 'A.1'], 'A.1 has no row')):
        assert any(complaint in line for line in faults(bad, CODE)), complaint
