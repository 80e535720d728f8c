"""A working directory, the command line without its progress bars, and a set of images that is prepared in chunks."""
import pytest

from coulomb_gan.data.prepare_images import CHUNK
from made_files import encoded, noise, quietly

BARS = ('images:', 'counting:', 'storing:')


@pytest.fixture
def place(tmp_path, monkeypatch):
    "An empty folder, and the working directory"
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(run):
    "The shared `run`, without the progress bars on stderr"
    def quiet(line):
        code, out, err = run(line)
        return code, out, [e for e in err if e.strip() and not e.lstrip().startswith(BARS)]
    return quiet


@pytest.fixture
def said(run):
    "The last line of a command that goes well"
    def said(line):
        code, out, err = run(line)
        assert code == 0, err
        return out.splitlines()[-1]
    return said


@pytest.fixture
def refused(run):
    "The one line of a command that is refused"
    def refused(line):
        code, _, err = run(line)
        assert code in (1, 2) and len(err) == 1, err
        return err[0]
    return refused


@pytest.fixture(scope='session')
def tree(tmp_path_factory):
    "Two chunks and a bit of small images, three files that are none, and the array of them made in one go"
    place = tmp_path_factory.mktemp('place')
    (place / 'tree').mkdir()
    for i in range(2 * CHUNK + 100): (place / f'tree/{i}.bmp').write_bytes(encoded(noise(8, 8), 'BMP'))
    for i in range(3): (place / f'tree/text{i}.png').write_text('not an image')
    quietly(place / 'tree', place / 'whole', workers=0)
    return place / 'tree'
