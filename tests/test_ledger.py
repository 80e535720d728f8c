"""The ledger of 00_paper: every numbered statement has a row, and every row names a section that exists."""
import re
from collections import Counter

from test_style import NOTEBOOKS, ROOT, load

STATUSES = {'holds', 'holds with a condition', 'fails as stated', 'reproduced', 'not yet run', 'not at hand'}
NAMED = ({'Theorem 1', 'Theorem 2', 'Table 4b'} | {f'Figure {i}' for i in range(1, 7)} | {f'A.{i}' for i in range(1, 8)}
         | {f'Table 4a, {data}' for data in ('CelebA', 'LSUN', 'CIFAR-10')})
# What our notes on the paper do not cover; the list may shrink, and nothing else may claim it.
NOT_AT_HAND = {'A.2', 'A.3', 'A.4', 'A.6', 'A.7', 'Figure 2', 'Figure 4'}


def ledger():
    source = '\n'.join(c.source for c in load(ROOT/'nbs/00_paper.ipynb').code)
    source = re.sub(r'\n +', ' ', source)                # an indented line goes on with the one before
    lines = re.findall(r'^(?:P\d|Theorem|Figure|Table|A\.)[^|\n]* \| .*$', source, flags=re.M)
    return [[field.strip() for field in line.split(' | ')] for line in lines]


def numbers(id):
    ends = [[int(n) for n in re.findall(r'P(\d+)', part)] for part in id.split(',')]
    return [n for e in ends if e for n in range(e[0], e[-1] + 1)]


def faults(rows, headings):
    "Every way in which the rows fall short, one line each"
    found = Counter(n for r in rows for n in numbers(r[0]))
    lines = [f'P{n} has {found[n]} rows' for n in range(1, 36) if found[n] != 1]
    lines += [f'{name} has no row' for name in sorted(NAMED - {r[0] for r in rows})]
    for id, *rest in rows:
        if len(rest) != 4 or not all(rest): lines.append(f'{id}: got {len(rest) + 1} fields, expected 5, none empty')
        elif rest[3] not in STATUSES: lines.append(f'{id}: no such status as {rest[3]!r}')
        elif (rest[3] == 'not at hand') != (id in NOT_AT_HAND): lines.append(f'{id}: {rest[3]}')
        elif rest[3] != 'not at hand':
            for place in rest[1].split(';'):
                name, _, section = (part.strip() for part in place.partition(':'))
                known = headings.get(name, [] if rest[3] != 'not yet run' else [section.lower()])
                if not section or not any(section.lower() in title for title in known):
                    lines.append(f'{id}: {rest[3]}, but {name} has no heading with {section!r}')
    return lines


HEADINGS = {nb.name: [title.lower() for _, title in nb.headings()] for nb in map(load, NOTEBOOKS)}


def test_every_statement_has_a_row_that_points_at_a_section():
    assert not (found := faults(ledger(), HEADINGS)), '\n'.join(['', *found])


def test_a_poor_ledger_is_rejected():
    rows = ledger()
    first = rows[0][:1] + ['text', '1_field/02_kernels: Monotonicity', 'exact', 'holds']
    for bad, complaint in (([*rows[1:]], 'P1 has 0 rows'), ([*rows, rows[0]], 'P1 has 2 rows'),
                           ([first[:4], *rows[1:]], 'got 4 fields'), ([[*first[:4], 'works'], *rows[1:]], 'no such status'),
                           ([[*first[:2], '-', '-', 'not at hand'], *rows[1:]], 'P1: not at hand'),
                           ([[*first[:2], '', *first[3:]], *rows[1:]], 'none empty'),
                           ([[*first[:2], '1_field/02_kernels: Nowhere', *first[3:]], *rows[1:]], "no heading with 'Nowhere'"),
                           ([r for r in rows if r[0] != 'A.1'], 'A.1 has no row')):
        assert any(complaint in line for line in faults(bad, HEADINGS)), complaint
