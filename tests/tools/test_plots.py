"""What the axes hold is what was given, and what cannot be drawn is refused before a figure is made."""
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from coulomb_gan import plots

NAN, INF = float('nan'), float('inf')
SQUARE = (0, 1, 0, 1)


@pytest.fixture
def ax(): return Figure().subplots()

@pytest.fixture(autouse=True)
def no_figure_is_left():
    yield
    plt.close('all')


# --- refused ------------------------------------------------------------------------------------------------------

REFUSED = {
    'a batch of images that is one': (lambda: plots.image_grid(torch.zeros(1, 2, 2)), 'images: got torch.float32'),
    'fewer titles than images': (lambda: plots.image_grid(torch.zeros(2, 1, 8, 8), titles=['a']), 'titles: got 1'),
    'rows of nothing': (lambda: plots.image_rows({}), 'rows: got none'),
    'a row without images': (lambda: plots.image_rows({'a': torch.zeros(0, 1, 8, 8)}), 'images: got'),
    'curves of nothing': (lambda: plots.curves({}, 'F'), 'series: got none'),
    'a histogram of nothing': (lambda: plots.histograms({}, 'x'), r'groups: got sizes \[\]'),
    'an empty group': (lambda: plots.histograms({'real': [1.], 'generated': []}, 'x'), r'got sizes \[1, 0\]'),
    'real points in 3-D': (lambda: plots.points(torch.zeros(5, 3)), r'points: got \(5, 3\), expected \(n, 2\)'),
    'generated points in 3-D': (lambda: plots.points(torch.zeros(5, 2), torch.zeros(4, 3)), r'got \(4, 3\)'),
    'a vector of points': (lambda: plots.points(torch.zeros(5)), r'got \(5,\)'),
    'a density in 3-D': (lambda: plots.density(torch.zeros(5, 3), SQUARE), r'got \(5, 3\)'),
    'a flat potential': (lambda: plots.potential_map(torch.zeros(4), torch.zeros(4, 2), SQUARE), r'phi \(4,\)'),
    'a force of another size': (lambda: plots.potential_map(torch.zeros(2, 3), torch.zeros(3, 2, 2), SQUARE),
                                r'got phi \(2, 3\) and force \(3, 2, 2\), expected \(h, w\) and \(h, w, 2\)'),
    'counts below zero': (lambda: plots.mode_frequencies([1, -1, 2]), 'none negative'),
    'counts that are not numbers': (lambda: plots.mode_frequencies([1, NAN]), 'none negative'),
    'counts of nothing': (lambda: plots.mode_frequencies(torch.zeros(3)), 'not all zero'),
    'no counts': (lambda: plots.mode_frequencies([]), r'got \[\]'),
    'a table of counts': (lambda: plots.mode_frequencies(torch.ones(2, 2)), r'expected \(K,\)'),
}


@pytest.mark.parametrize('what', REFUSED)
def test_what_cannot_be_drawn_is_refused(what):
    draw, message = REFUSED[what]
    with pytest.raises(ValueError, match=message): draw()


# --- images -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('n, cols, side', [(5, 3, 8), (16, 8, 32), (1, 1, 1), (3, 20, 64), (2, 2, 400)])
def test_each_pixel_is_a_whole_number_of_screen_pixels(n, cols, side):
    ax = plots.image_grid(torch.zeros(n, 1, side, side), cols)
    height, width = ax.images[0].get_array().shape[:2]
    dots_x, dots_y = ax.get_window_extent().width/width, ax.get_window_extent().height/height
    assert dots_x == pytest.approx(dots_y) and dots_x == pytest.approx(round(dots_x)) and round(dots_x) >= 1


def test_titles_of_any_kind_are_written(ax):
    plots.image_grid(torch.zeros(3, 3, 8, 8), titles=np.array([7, 8, 9]), ax=ax)
    assert [t.get_text() for t in ax.texts] == ['7', '8', '9']


def test_rows_wrap_and_labels_stand_at_their_middle():
    "Five images in lines of two: three lines of 8 pixels and a gap, the label half-way down"
    ax = plots.image_rows({'long': torch.zeros(5, 1, 8, 8), 'short': torch.zeros(1, 1, 8, 8)}, cols=2).axes[0]
    assert ax.images[0].get_array().shape == (36, 18, 3)
    assert [t.get_position() for t in ax.texts] == [(-1, 13.5), (-1, 31.5)]


# --- curves -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('values, scale, band', [
    ([3., 1.], 'log', None), ([3., NAN, INF, 1.], 'log', None), ([NAN], 'log', None), ([3., 1., -.25, -.5], 'symlog', .5),
    ([3., 0., .125], 'symlog', .125), ([3., 0.], 'symlog', 1.), ([0., 0.], 'symlog', 1.), ([4., NAN, INF, -2.], 'symlog', 2.)])
def test_scale_of_curves(values, scale, band, ax):
    "Symmetric where a value is not positive, linear within the most negative one; gaps do not count"
    plots.curves({'a': (range(len(values)), values)}, 'F', ax=ax)
    assert ax.get_yscale() == scale
    if band is not None: assert ax.yaxis.get_transform().linthresh == band
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), values)


def test_the_bias_moves_the_scale_and_marks_do_not(ax):
    plots.curves({'a': (range(2), [3., 1.])}, 'F', marks=[-1.], ax=ax)
    assert ax.get_yscale() == 'log'
    plots.curves({'a': (range(2), [3., 1.])}, 'F', bias=-1., ax=ax)
    assert ax.get_yscale() == 'symlog'


def test_a_plain_scale_on_request(ax):
    assert plots.curves({'a': (range(2), [3., -1.])}, 'F', log=False, ax=ax).get_yscale() == 'linear'


def test_reserved_colours_go_by_name(ax):
    plots.curves({name: (range(2), [1., 2.]) for name in ('generated', 'other', 'real')}, 'F', ax=ax)
    generated, other, real = [line.get_color() for line in ax.lines]
    assert (generated, real) == (plots.GENERATED, plots.REAL) and other not in (generated, real)


# --- points and frequencies ---------------------------------------------------------------------------------------

def test_points_have_names_and_colours(ax):
    plots.points(torch.zeros(5, 2), torch.ones(4, 2), ax=ax)
    assert [s.get_label() for s in ax.collections] == ['real', 'generated']
    assert [len(s.get_offsets()) for s in ax.collections] == [5, 4] and ax.get_aspect() == 1


@pytest.mark.parametrize('n, limit, drawn', [(3, 5, 3), (5, 5, 5), (1000, 5, 5), (7, 1, 1)])
def test_thinning_keeps_the_ends(n, limit, drawn, ax):
    plots.points(torch.arange(2.*n).view(n, 2), ax=ax, limit=limit)
    offsets = ax.collections[0].get_offsets()
    assert len(offsets) == drawn and offsets[0].tolist() == [0, 1]
    if drawn > 1: assert offsets[-1].tolist() == [2*n - 2, 2*n - 1]


def test_density_counts_all_points_and_names_those_outside(ax):
    cloud = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    assert plots.density(cloud, SQUARE, bins=4, ax=ax).get_title() == ''
    assert ax.images[0].get_array().sum() == 1000
    assert plots.density(cloud + 5, SQUARE, ax=ax).get_title() == '100.0% outside'


def test_a_map_of_nothing_is_white(ax):
    plots.potential_map(torch.zeros(3, 4), torch.ones(3, 4, 2), SQUARE, ax=ax)
    assert (ax.images[0].norm.vmin, ax.images[0].norm.vmax) == (-1, 1)


def test_lines_of_an_upward_force_are_upright(ax):
    up = torch.tensor([0., 1.]).expand(6, 5, 2)
    plots.potential_map(torch.zeros(6, 5), up, (0, 3, 0, 1), ax=ax)
    for line in ax.collections[0].get_segments():
        assert line[:, 0] == pytest.approx(line[0, 0]) and (np.diff(line[:, 1]) >= 0).all()


@pytest.mark.parametrize('k, labels, shown', [(3, None, ['0', '1', '2']), (3, [*'abc'], ['a', 'b', 'c'])])
def test_frequencies_are_labelled(k, labels, shown, ax):
    plots.mode_frequencies(torch.ones(k), labels, band=(.2, .4), ax=ax)
    assert [t.get_text() for t in ax.get_xticklabels()] == shown
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['allowed by chance', 'uniform 1/3']


def test_many_frequencies_are_not_labelled_one_by_one(ax):
    assert len(plots.mode_frequencies(torch.ones(100), ax=ax).get_xticks()) < 20


# --- without axes a figure of its own -----------------------------------------------------------------------------

@pytest.mark.parametrize('draw', [
    lambda: plots.image_grid(torch.zeros(2, 1, 8, 8)), lambda: plots.curves({'a': ([0], [1.])}, 'F'),
    lambda: plots.histograms({'a': [1., 2.]}, 'x'), lambda: plots.points(torch.zeros(5, 2)),
    lambda: plots.density(torch.zeros(5, 2), SQUARE), lambda: plots.mode_frequencies([1, 2]),
    lambda: plots.potential_map(torch.zeros(3, 4), torch.ones(3, 4, 2), SQUARE)])
def test_axes_are_made_when_none_are_given(draw): assert draw().figure is plt.gcf()
