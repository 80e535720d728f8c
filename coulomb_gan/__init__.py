"""Coulomb GANs: the importers' door. Names are loaded when they are first used, so that `import coulomb_gan` is light."""
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.3.0"

if TYPE_CHECKING:
    from .field.kernels import Plummer
    from .field.potential import energy, force, potential, potentials
    from .reporting.reproduce import reproduce
    from .training.config import Experiment
    from .training.fit import fit
    from .training.loading import load_run
    from .training.presets import EXPERIMENTS, experiment

_HOMES = {
    'Plummer': 'field.kernels', 'potential': 'field.potential', 'potentials': 'field.potential',
    'force': 'field.potential', 'energy': 'field.potential', 'Experiment': 'training.config',
    'experiment': 'training.presets', 'EXPERIMENTS': 'training.presets', 'fit': 'training.fit',
    'load_run': 'training.loading', 'reproduce': 'reporting.reproduce',
}
__all__ = [*_HOMES]


def __getattr__(name):
    "A name of the door, from the module where it lives."
    if name not in _HOMES: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_HOMES[name]}'), name)


def __dir__(): return sorted([*globals(), *_HOMES])
