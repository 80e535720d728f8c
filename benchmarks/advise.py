"""Does `coulomb-gan advise` help? Trains a preset's own kernel against the advised one, learned and by the exact force.

    python benchmarks/advise.py [digits] [mixture] [--seeds 2] [--out runs/advise]

Each pair differs in kernel and softening alone. Prints a table in Markdown: the energy against held-out data by one
kernel for all, and what an independent measure says: the Frechet distance of digits in the classifier's features, the
share of the mixture's samples within three standard deviations of a mode. About ten minutes a data set on one core.
"""
import argparse
from pathlib import Path

from coulomb_gan.data.catalogue import load
from coulomb_gan.field.potential import energy
from coulomb_gan.metrics.mode_coverage import mode_coverage
from coulomb_gan.metrics.registry import metric
from coulomb_gan.reporting.advise import advise, scales
from coulomb_gan.tables import table
from coulomb_gan.training.evaluation import energy_kernel
from coulomb_gan.training.fit import fit
from coulomb_gan.training.presets import experiment

EXACT = dict(objective='exact-force', charges=1024, self_term=0.)
# data set -> for the learned potential and for the exact force: preset, its length, what is changed in it
CASES = {
    'digits': {'learned': ('digits', 4000, {}), 'exact force': ('digits', 4000, EXACT)},
    'mixture': {'learned': ('mixture', 20_000, {}), 'exact force': ('mixture-exact-force', 10_000, {})}}
# kernels tried beside the preset's and the advised one
TRIED = {('digits', 'learned'): {'steeper': dict(d=4., eps=3., eps_end=2.)}}


def advised(name, exact, batch):
    "The kernel that the advice names, as options."
    data = load(name)
    found = {s.setting: s.value for s in advise(scales(data.floats(data.train)), batch, exact)}
    return {option: round(found[option], 2) for option in ('d', 'eps', 'eps_end')}


def measured(name, run):
    "The energy and the independent measure of a run."
    e, data = run.experiment, run.data
    y = data.floats(data.test)
    x = run.sample(len(y))
    f = energy(x.flatten(1), y.flatten(1), energy_kernel(e)).item()
    if name == 'digits':
        frechet = metric('digits')
        prepared = frechet.prepare(data, len(y), 'cpu')
        return f, frechet.monitored(frechet.compute(frechet.of_each(x, prepared), prepared))
    found = mode_coverage(run.sample(20_000), data.modes.means, data.modes.std)
    return f, found['within_3sigma']


def rows(name, seeds, out):
    for method, (preset, steps, options) in CASES[name].items():
        plain = experiment(preset, steps=steps, eval_every=steps, **options)
        advice = advised(name, method == 'exact force', plain.optim.batch)
        kernels = {'preset': {}, 'advised': advice} | TRIED.get((name, method), {})
        for label, kernel in kernels.items():
            for seed in range(seeds):
                e = plain.changed(seed=seed, **kernel)
                run = fit(e, out/f'{name}-{method.split()[0]}-{label}-{seed}')
                o = e.objective
                yield [name, method, label, f'{o.d:g}', f'{o.eps:g} → {o.eps_end or o.eps:g}', seed, *measured(name, run)]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', default=[], help='digits, mixture; both if none is given')
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--out', type=Path, default=Path('runs/advise'))
    given = parser.parse_args()
    found = [row for name in given.names or CASES for row in rows(name, given.seeds, given.out)]
    print(table(found, ['data', 'method', 'kernel', 'd', 'eps', 'seed', 'F', 'Fréchet or share within 3σ']))
