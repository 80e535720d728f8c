"""A record refuses what is wrong when it is made, comes back from plain data, and is found by the name a user types."""
import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, fields, replace

import pytest
from hypothesis import given, settings, strategies as st

from coulomb_gan.options import Options, Registry, choose, discover, flat_fields, nested, plain, rebuilt, revised

KINDS = Registry('kind', renamed={'nib': 'pen'})


@KINDS.add('brush')
@dataclass(frozen=True)
class Brush(Options):
    width: float = 1.
    hairs: int = 100
    shape: str = 'round'
    taper: float | None = None
    layers: int | None = None
    wet: bool = True
    note: str = ''
    ranges = {'taper': (0, 1), 'layers': (0, 5)}
    choices = {'shape': ('round', 'flat')}


@KINDS.add('pen')
@dataclass(frozen=True)
class Pen(Options):
    width: float = .1
    ink: str = 'black'


@dataclass(frozen=True)
class Fan(Brush):
    spread: float = 2.


@dataclass(frozen=True)
class Painting(Options):
    tool: Options = Brush()
    brush: Brush = Brush()
    second: Brush | None = None
    colours: int = 3


@dataclass(frozen=True)
class Gallery(Options):
    title: str
    painting: Painting = Painting()


# --- names --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('asked, message', [
    ('colomb', "there is no objective 'colomb'; did you mean 'coulomb'"), ('direct', "the objective 'direct' was renamed to 'exact'"),
    ('xyz', "no objective 'xyz'; expected one of coulomb, exact"), ('', 'expected one of'), (None, "no objective 'None'"),
    (3, "no objective '3'"), (['coulomb'], 'no objective'), ({}, 'no objective')])
def test_unknown_names(asked, message):
    with pytest.raises(ValueError, match=message.replace('(', r'\(')):
        choose(asked, ['coulomb', 'exact'], 'objective', {'direct': 'exact'})


def test_a_name_of_today_beats_one_of_yesterday(): assert choose('a', iter('ab'), renamed={'a': 'b'}) == 'a'


# --- types, choices, ranges ---------------------------------------------------------------------------------------

WRONG = [
    (dict(width='2'), "width must be of type float, got '2'"), (dict(width=None), 'width must be of type float'),
    (dict(width=True), 'width must be of type float, got True'), (dict(hairs=2.), 'hairs must be of type int, got 2.0'),
    (dict(hairs=True), 'hairs must be of type int'), (dict(wet=1), 'wet must be of type bool, got 1'),
    (dict(wet=None), 'wet must be of type bool'), (dict(note=3), 'note must be of type str'),
    (dict(taper='1'), 'taper must be of type float or None'), (dict(layers=1.), 'layers must be of type int or None'),
    (dict(hairs=0), r'hairs must lie in \[1, 1e\+12\], got 0'), (dict(width=0.), r'width must lie in \[1e-12, 1e\+12\]'),
    (dict(width=-1), 'width must lie in'), (dict(width=float('nan')), 'width must lie in .* got nan'),
    (dict(width=float('inf')), 'width must lie in .* got inf'), (dict(taper=2), r'taper must lie in \[0, 1\], got 2'),
    (dict(layers=6), r'layers must lie in \[0, 5\]'), (dict(shape='fan'), "shape must be one of round, flat, got 'fan'"),
    (dict(shape=''), 'shape must be one of'), (dict(hairs=0, shape='fan'), 'hairs')]


@pytest.mark.parametrize('values, message', WRONG, ids=lambda v: str(v)[:40])
def test_wrong_values(values, message):
    with pytest.raises(ValueError, match=message): Brush(**values)
    with pytest.raises(ValueError, match=message): replace(Brush(), **values)
    with pytest.raises(ValueError, match=message): revised(Painting(), {'brush': values})


@pytest.mark.parametrize('values', [
    dict(width=2), dict(width=1e-12), dict(width=10**12), dict(hairs=1), dict(taper=0), dict(taper=None), dict(taper=.5),
    dict(layers=0), dict(layers=None), dict(wet=False), dict(note='any'), dict(shape='flat')], ids=str)
def test_right_values(values):
    for name, value in values.items(): assert getattr(Brush(**values), name) == value


@pytest.mark.parametrize('values, message', [
    (dict(brush=Pen()), 'brush must be of type Brush'), (dict(brush='brush'), 'brush must be of type Brush'),
    (dict(brush=None), 'brush must be of type Brush'), (dict(brush=Brush), 'brush must be of type Brush'),
    (dict(tool=3), 'tool must be of type Options'), (dict(second=Pen()), 'second must be of type Brush or None')])
def test_records_of_another_class(values, message):
    with pytest.raises(ValueError, match=message): Painting(**values)


def test_a_class_stands_for_its_subclasses():
    "A field annotated with a base takes every record of it, whatever the default is"
    assert Painting(tool=Pen(), brush=Fan(), second=Fan()).second == Fan()


def test_records_are_frozen_and_say_what_they_are():
    with pytest.raises(FrozenInstanceError): Brush().width = 2.
    assert Brush(width=2) == Brush(width=2.) and hash(Painting()) == hash(Painting())
    with pytest.raises(TypeError, match='title'): Gallery()


# --- plain data ---------------------------------------------------------------------------------------------------

BRUSHES = st.builds(Brush, width=st.floats(1e-12, 1e12), hairs=st.integers(1, 10**12), shape=st.sampled_from(['round', 'flat']),
                    taper=st.none() | st.floats(0, 1), layers=st.none() | st.integers(0, 5), wet=st.booleans(), note=st.text())
PAINTINGS = st.builds(Painting, brush=BRUSHES, colours=st.integers(1, 99))


@settings(max_examples=50, deadline=None)
@given(PAINTINGS)
def test_a_record_comes_back_through_json(painting):
    stored = json.loads(json.dumps(plain(painting)))
    assert revised(Painting(), stored) == painting
    assert stored['brush']['name'] == 'brush' and 'name' not in stored


@settings(max_examples=25, deadline=None)
@given(PAINTINGS, PAINTINGS)
def test_what_is_left_out_stays(first, second):
    changes = {'brush': {'hairs': second.brush.hairs}}
    assert revised(first, changes) == replace(first, brush=replace(first.brush, hairs=second.brush.hairs))
    assert revised(first, {}) == first


@pytest.mark.parametrize('changes, message', [
    ({'brush': {'hair': 7}}, "there is no option of brush 'hair'; did you mean 'hairs'"),
    ({'color': 7}, "there is no option of Painting 'color'; did you mean 'colours'"),
    ({'brush': 7}, 'brush must be of type Brush, got 7'), ({'colours': {}}, 'colours must be of type int'),
    ({'brush': {'name': 'pen'}}, "no option of brush 'name'"), ({'name': 'x'}, "no option of Painting 'name'"),
    ({3: 1}, "no option of Painting '3'")])
def test_changes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message): revised(Painting(), changes)


def test_a_missing_record_is_given_whole():
    "None holds nothing that a mapping could change"
    assert revised(Painting(), {'second': Brush(hairs=7)}).second.hairs == 7
    with pytest.raises(ValueError, match='second must be of type Brush or None'): revised(Painting(), {'second': {'hairs': 7}})


# --- flat names ---------------------------------------------------------------------------------------------------

def test_flat_names_lead_to_every_option_and_back():
    found = flat_fields(Gallery)
    assert 'title' not in found and 'painting_brush_hairs' in found and 'painting_second' in found
    assert len(found) == 2*len(fields(Brush)) + 2
    for path, field in found.values():
        assert revised(Gallery(title=''), nested(path, field.default)) == Gallery(title='')
    path, field = found['painting_brush_hairs']
    assert path == ('painting', 'brush', 'hairs') and field.default == 100
    assert revised(Gallery(title=''), nested(path, 7)).painting.brush.hairs == 7


def test_nested_of_nothing_is_the_value(): assert nested((), 3) == 3


# --- registries ---------------------------------------------------------------------------------------------------

def test_a_registered_class_knows_its_name():
    assert KINDS.find('pen') is Pen and Pen.name == Pen().name == 'pen' and [*KINDS] == ['brush', 'pen']


@pytest.mark.parametrize('name, message', [
    ('penn', "there is no kind 'penn'; did you mean 'pen'"), ('nib', "the kind 'nib' was renamed to 'pen'"), (None, 'no kind'),
    (['pen'], 'no kind')])
def test_unknown_kinds(name, message):
    with pytest.raises(ValueError, match=message): KINDS.find(name)


def test_a_name_is_taken_by_one_class():
    "A class of the same name may come again, as when a cell is run twice"
    kinds = Registry('kind')
    kinds.add('pen')(Pen)
    with pytest.raises(ValueError, match="the kind 'pen' is taken by Pen"): kinds.add('pen')(Brush)
    again = kinds.add('pen')(type('Pen', (Pen,), {}))
    assert kinds.find('pen') is again


@pytest.mark.parametrize('stored, expected', [
    ({}, Brush(width=3.)), ({'hairs': 5}, Brush(width=3., hairs=5)), ({'name': 'brush'}, Brush(width=3.)),
    ({'name': 'pen'}, Pen(width=3.)), ({'name': 'pen', 'width': 4.}, Pen(width=4.)),
    ({'ink': 'red', 'name': 'pen'}, Pen(width=3., ink='red'))])
def test_another_class_takes_over_what_both_have(stored, expected):
    before = dict(stored)
    assert rebuilt(Brush(width=3.), stored, KINDS) == expected and stored == before


def test_of_a_record_inside_only_what_was_set_is_taken_over():
    "Where the other class gives that record other defaults"
    kinds = Registry('kind')
    for name, width in (('sketch', .5), ('mural', 9.)):
        kinds.add(name)(dataclass(frozen=True)(type(name, (Options,), {'__annotations__': {'tool': Brush}, 'tool': Brush(width=width)})))
    one, other = kinds['sketch'], kinds['mural']
    assert rebuilt(one(), {'name': 'mural'}, kinds) == other(Brush(width=9.))
    assert rebuilt(one(Brush(width=.5, hairs=7)), {'name': 'mural'}, kinds) == other(Brush(width=9., hairs=7))
    assert rebuilt(one(Brush(width=2.)), {'name': 'mural', 'tool': {'wet': False}}, kinds) == other(Brush(width=2., wet=False))


@pytest.mark.parametrize('stored, message', [
    ({'name': 'pen', 'hairs': 5}, "there is no option of pen 'hairs'"), ({'ink': 'red'}, "no option of brush 'ink'"),
    ({'name': 'nib'}, 'renamed'), ({'name': 'pen', 'width': -1}, 'width must lie in')])
def test_what_does_not_fit_the_other_class(stored, message):
    with pytest.raises(ValueError, match=message): rebuilt(Brush(), stored, KINDS)


@pytest.mark.parametrize('kind', KINDS)
def test_every_registered_record_comes_back(kind):
    record = KINDS.find(kind)()
    for other in KINDS.values(): assert rebuilt(other(), plain(record) | {'width': record.width}, KINDS) == record


# --- discovery ----------------------------------------------------------------------------------------------------

MODULE = '''
from dataclasses import dataclass
from coulomb_gan.options import Options
from {package} import SHOP

@SHOP.add('{name}')
@dataclass(frozen=True)
class {title}(Options):
    width: float = 1.
'''


@pytest.fixture
def shop(tmp_path, monkeypatch):
    "A package of two modules, each with a record of its own"
    folder = tmp_path / 'shop_of_tools'
    folder.mkdir()
    (folder / '__init__.py').write_text("from coulomb_gan.options import Registry\nSHOP = Registry('thing')\n")
    for name in ('chalk', 'crayon'):
        source = MODULE.format(package='shop_of_tools', name=name, title=name.title())
        (folder / f'{name}.py').write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [n for n in sys.modules if n.startswith('shop_of_tools')]: del sys.modules[name]


def test_what_lies_in_a_folder_is_found(shop):
    discover('shop_of_tools')
    discover('shop_of_tools')
    assert [*importlib.import_module('shop_of_tools').SHOP] == ['chalk', 'crayon']


def test_an_error_in_a_module_is_not_hidden(shop):
    (shop / 'broken.py').write_text('1/0')
    with pytest.raises(ZeroDivisionError): discover('shop_of_tools')


# --- the package's own records ------------------------------------------------------------------------------------

def subclasses(cls): return {c for s in cls.__subclasses__() for c in (s, *subclasses(s)) if c.__module__.startswith('coulomb_gan.')}


def test_ranges_and_choices_of_the_package_name_fields():
    "A misspelt entry would have no effect"
    for chapter in ('objectives', 'networks', 'training'): discover(f'coulomb_gan.{chapter}')
    for cls in subclasses(Options):
        own = {field.name for field in fields(cls)}
        for rules in (cls.ranges, cls.choices):
            assert isinstance(rules, Mapping) and set(rules) <= own, f'{cls.__name__}: {set(rules) - own} is not a field'
