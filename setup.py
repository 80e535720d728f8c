"""Package metadata, read from settings.ini; the experiment notebooks travel as package data."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=['='])
config.read('settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    license='Apache-2.0',
    keywords=cfg['keywords'],
    python_requires='>=' + cfg['min_python'],
    packages=[*find_packages(include=['coulomb_gan*']), 'coulomb_gan.experiments'],
    package_dir={'coulomb_gan': 'coulomb_gan', 'coulomb_gan.experiments': 'nbs/experiments'},
    package_data={'coulomb_gan': ['py.typed'],
                  'coulomb_gan.experiments': ['*.ipynb', '*.json', 'parameters/*.yaml']},
    install_requires=cfg['requirements'].split() + cfg['pip_requirements'].split(),
    extras_require={'dev': cfg['dev_requirements'].split(), 'book': cfg['book_requirements'].split()},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': ['coulomb_gan=coulomb_gan._modidx:d']},
)
