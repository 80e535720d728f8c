"""`coulomb-gan doctor`: every missing thing has a line that says what it would enable; only required ones fail it."""
from importlib.metadata import PackageNotFoundError

import pytest

from coulomb_gan.reporting import cli_doctor as doctor


@pytest.fixture
def without(monkeypatch):
    "Takes packages away"
    real = doctor.version
    def without(*names):
        def version(name):
            if name in names: raise PackageNotFoundError(name)
            return real(name)
        monkeypatch.setattr(doctor, 'version', version)
    return without


@pytest.mark.parametrize('name', sorted(doctor.PACKAGES))
def test_a_missing_package_has_a_line_with_its_purpose(name, without, run):
    without(name)
    code, out, err = run('doctor')
    line, = [line for line in out.splitlines() if line.startswith('missing') and name in line.split()]
    purpose, required = doctor.PACKAGES[name]
    assert purpose in line and f'pip install {name}' in line
    assert code == (1 if required else 0)
    assert len(err) == required and all(name in line and '\n' not in line for line in err)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / 'file').touch()
    found = {finding.name: finding for finding in doctor.findings(tmp_path / 'file' / 'runs')}
    assert found['folder'].missing and found['folder'].required and '--out' in str(found['folder'])


def test_nothing_is_written(tmp_path):
    doctor.findings(tmp_path)
    assert not [*tmp_path.iterdir()]
