"""What is kept of an earlier call is used where it serves, and only there; numbers of any float type are one."""
import pytest
import torch

from coulomb_gan.metrics.feature_extractors import FeatureExtractor, reference
from coulomb_gan.metrics.frechet import Statistics, finite_sample_bias, statistics
from coulomb_gan.metrics.ngrams import training_models


def seeded(): return torch.Generator().manual_seed(0)


def test_more_kept_features_are_computed_again_and_fewer_are_not(tmp_path):
    images = torch.randint(256, (100, 1, 4, 4), dtype=torch.uint8, generator=seeded())
    calls = []
    def answer(x):
        calls.append(len(x))
        return x.flatten(1).float()
    extractor = FeatureExtractor('own', answer, torch.device('cpu'))
    def kept(keep): return len(reference(extractor, images, tmp_path, keep=keep).features)
    assert [kept(20), kept(200), kept(200), kept(20)] == [20, 100, 100, 100]
    assert sum(calls) == 2 * 100 + 2 * 16  # twice all, and twice the first to compare


def test_lines_of_another_length_have_tables_of_their_own(tmp_path):
    rows = torch.randint(5, (200, 16), dtype=torch.uint8, generator=seeded())
    totals = [training_models(rows.reshape(shape), 5, tmp_path, longest=2, progress=False)[2].total
              for shape in ((200, 16), (100, 32))]
    assert totals == [200 * 15, 100 * 31]


def test_the_bias_of_statistics_in_float32_is_that_in_float64():
    x = torch.randn(300, 5, generator=seeded())
    exact = statistics(x.double(), keep=300)
    rounded = Statistics(exact.mu.float(), exact.sigma.float(), exact.n, exact.features.float())
    assert finite_sample_bias(rounded, 300) == pytest.approx(finite_sample_bias(exact, 300), rel=1e-5)


def test_features_that_never_vary_have_no_bias():
    assert finite_sample_bias(statistics(torch.ones(50, 4)), 50) == 0
