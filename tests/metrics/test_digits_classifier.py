"""The classifier whose features measure the digits: reproducible, without side effects, better than chance."""
from dataclasses import replace

import pytest
import torch

from coulomb_gan.data.datasets import digits, to_float
from coulomb_gan.metrics.digits_classifier import DigitsClassifier, accuracy, train_classifier


@pytest.fixture(scope='module')
def data(): return digits()

@pytest.fixture(scope='module')
def short(data): return train_classifier(data, epochs=1, seed=3)


def weights(net): return torch.cat([p.flatten() for p in net.parameters()])


def test_a_seed_gives_one_network(data, short):
    assert torch.equal(weights(train_classifier(data, epochs=1, seed=3)), weights(short))
    assert not torch.equal(weights(train_classifier(data, epochs=1, seed=4)), weights(short))


def test_training_leaves_the_random_numbers_of_others_alone(data):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    train_classifier(data, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_it_is_ready_to_be_read(data, short):
    "64 features, ten classes on top of them, no gradients, nothing that depends on the batch."
    x = to_float(data.test[:20])
    assert isinstance(short, DigitsClassifier) and not short.training
    f = short.body(x)
    assert f.shape == (20, 64) and not f.requires_grad and (f >= 0).all()
    assert torch.equal(short(x), short.head(f)) and short(x).shape == (20, 10)
    torch.testing.assert_close(torch.cat([short.body(b) for b in x.split(7)]), f, rtol=1e-5, atol=1e-5)


def test_accuracy_is_the_share_of_held_out_digits(data, short):
    named = [int(short(to_float(image[None])).argmax()) for image in data.test]
    right = sum(a == b for a, b in zip(named, data.test_labels.tolist()))
    assert accuracy(short, data) == pytest.approx(right / len(data.test), abs=1e-6)
    answered = replace(data, test_labels=torch.tensor(named))
    assert accuracy(short, answered) == 1 and accuracy(short, replace(data, test_labels=torch.tensor(named) + 1)) == 0


def test_one_pass_is_better_than_chance_and_more_are_better(data, short):
    assert .3 < accuracy(short, data) < accuracy(train_classifier(data, epochs=8, seed=3), data)
