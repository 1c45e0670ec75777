"""Scenes, captions, tokens and pools, without torch."""

import hashlib
import random

import numpy as np
import pytest

from models import evaluate
from models.train import pool, scenes, sprites, tokenizer, vocabulary


def drawn(combinations, count=2000):
    source = random.Random(3)
    return [scenes.draw_scene(source, combinations) for _ in range(count)]


def test_held_out_combinations_are_never_trained():
    assert not any(scenes.held_out(scene.things) for scene in drawn("seen"))


def test_every_judged_prompt_asks_for_a_held_out_combination():
    judged = evaluate.judged_scenes(evaluate.ALL_PROMPTS)
    assert all(scenes.held_out(scene.things) for scene in judged)
    assert {len(scene.things) for scene in judged} == {1, 2, 3, 4}
    assert len({scene.caption for scene in judged}) == evaluate.ALL_PROMPTS


def test_judged_prompts_stay_the_same():
    text = "\n".join(scene.caption for scene in evaluate.judged_scenes(evaluate.ALL_PROMPTS))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "52d30c3456f9cf09"


def test_all_kinds_of_combination_are_held_out():
    assert len(scenes.HELD_OUT_COLOURS) == 10
    assert 40 < len(scenes.HELD_OUT_PLACES) < 80
    assert 200 < len(scenes.HELD_OUT_PAIRS) < 280


def test_things_have_different_cells_and_stand_out():
    colours, backgrounds = list(vocabulary.COLOURS.values()), list(vocabulary.BACKGROUNDS.values())
    for scene in drawn("any"):
        assert len({thing.cell for thing in scene.things}) == len(scene.things)
        for thing in scene.things:
            if thing.colour >= 0:
                for edge in scene.background:
                    assert vocabulary.stands_out(colours[thing.colour], backgrounds[edge])


def test_caption_names_every_thing_with_its_colour():
    for scene in drawn("any", 300):
        for thing in scene.things:
            name = vocabulary.THINGS[thing.kind]
            colour = [*vocabulary.COLOURS, ""][thing.colour]
            assert f"{colour} {name}".strip() in scene.caption


def test_nothing_is_drawn_under_60_px_or_outside():
    made = pool.make(pool.Order(2000, 7, "any"))
    boxes = made.box[made.kind >= 0]
    assert boxes[:, 2].min() * 31 / 32 >= 60
    for axis in (0, 1):
        assert (boxes[:, axis] - boxes[:, 2] / 2).min() >= 0
        assert (boxes[:, axis] + boxes[:, 2] / 2).max() <= vocabulary.IMAGE_PX


def test_equal_orders_give_equal_pools_in_any_process():
    order = pool.Order(pool.CHUNK + 5, 11, "seen")
    with pool.PoolMaker({"some": order}, 2) as maker:
        made = maker.take("some")
    assert made.scenes == order.count
    for here, there in zip(pool.make(order), made):
        np.testing.assert_array_equal(here, there)


def test_a_caption_that_is_too_long_is_refused():
    scene = drawn("any", 1)[0]
    with pytest.raises(ValueError, match="57 tokens, limit 56"):
        pool.pack([scene], np.random.default_rng(0), lambda caption: [3] * 56 + [1])


def test_tokens_are_those_of_the_stock_tokenizer():
    from transformers import T5Tokenizer

    stock = T5Tokenizer(vocab_file=str(tokenizer.MODEL), extra_ids=0, legacy=False)
    for scene in drawn("any", 200):
        assert stock(scene.caption).input_ids == tokenizer.encode(scene.caption)
    assert stock("").input_ids == [tokenizer.EOS_ID]
    assert len(stock) <= tokenizer.VOCABULARY_SIZE


def test_no_word_of_a_caption_is_split():
    words = {word.strip(",") for scene in drawn("any") for word in scene.caption.split()}
    assert [word for word in words if len(tokenizer.encode(word)) != 2] == []


@pytest.mark.long
def test_committed_tokenizer_is_what_the_script_builds():
    assert tokenizer.build() == tokenizer.MODEL.read_bytes()


def test_committed_shapes_are_what_the_script_draws():
    sheet = sprites.read_sheet()
    for number, name in enumerate(vocabulary.SHAPES):
        alpha = sprites.draw_shape(name)[..., 3] / np.float32(255)
        np.testing.assert_allclose(sheet[number, 3], alpha)
    assert sheet.shape == (len(vocabulary.THINGS), 4, sprites.SIDE_PX, sprites.SIDE_PX)
    assert (sheet[:, 3].max((1, 2)) > 0.9).all(), "a thing without a picture"
