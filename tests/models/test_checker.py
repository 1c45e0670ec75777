"""The committed checker network."""

import pytest
import torch

from models import evaluate
from models.train.checker import NO_THING, judge, load_checker, right_answers
from models.train.render import Renderer

COUNT = 60


@pytest.fixture(scope="module")
def checker():
    return load_checker(evaluate.CHECKER)


@pytest.fixture(scope="module")
def judged():
    """Held-out scenes, and what they look like."""
    pool = evaluate.as_pool(evaluate.judged_scenes(COUNT), "cpu")
    return pool, Renderer("cpu")(pool, torch.arange(COUNT))


def test_reads_every_drawn_scene(checker, judged):
    pool, images = judged
    verdict = judge(checker, images, pool)
    assert verdict.shown.all() and verdict.exact.all() and verdict.background.all()
    assert verdict.confidence.min() > 0.5


def test_refuses_images_of_other_captions(checker, judged):
    pool, images = judged
    others = torch.arange(COUNT).roll(1)
    assert judge(checker, images, pool.rows(others)).shown.float().mean() <= 0.05


def test_refuses_an_empty_image(checker, judged):
    pool, images = judged
    assert not judge(checker, torch.zeros_like(images), pool).shown.any()


def test_one_missing_thing_is_noticed(checker, judged):
    pool, images = judged
    right = right_answers(pool)
    cell = (right.thing != NO_THING).float().argmax(1)
    covered = images.clone()
    for number, (row, column) in enumerate(zip((cell // 3).tolist(), (cell % 3).tolist())):
        top, left = row * 256 // 3, column * 256 // 3
        covered[number, :, top : top + 86, left : left + 86] = images[number, :, :1, :1]
    assert judge(checker, covered, pool).shown.float().mean() <= 0.05


def test_other_things_are_shown_but_not_exact(checker, judged):
    pool, images = judged
    fewer = pool._replace(kind=pool.kind.clone())
    fewer.kind[:, 1:] = -1
    several = pool.kind[:, 1] >= 0
    verdict = judge(checker, images, fewer)
    assert verdict.shown.all()
    assert not verdict.exact[several].any()
    assert verdict.exact[~several].all()
