#!/usr/bin/env python3
"""The tokenizer: a SentencePiece unigram model whose pieces are the words of the captions.

    models/train/tokenizer.py [--out FILE]     builds the model (default: data/spiece.model)

SentencePiece's own unigram training splits four words in ten of so small a vocabulary, so every
word becomes a piece with the logarithm of its frequency as score, and single characters stay below
them for words that no caption has. The normaliser (NFKC and case folding) is SentencePiece's own.
"""

import argparse
import collections
import functools
import io
import math
import pathlib
import random
import re
import string

MODEL = pathlib.Path(__file__).parent / "data" / "spiece.model"
EOS_ID = 1
VOCABULARY_SIZE = 256  # rows of the text encoder's embedding
SPACE = "\u2581"  # SentencePiece's mark for the start of a word

CORPUS_CAPTIONS = 60_000
CHARACTERS = string.ascii_lowercase + string.digits + ".,!?'-"
CHARACTER_SCORE = -14.0
# Words that captions have not, but people write: counted as if they had been seen a few times.
EXTRA_WORDS = (
    "one two three four the of scene photo there is are purple grey moon ball turquoise"
).split()
EXTRA_COUNT = 50


@functools.cache
def _processor():
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(MODEL))


@functools.cache
def _word_ids(word):
    return tuple(_processor().encode(word))


def encode(caption):
    """Token ids with the end mark, as T5Tokenizer gives them for single-spaced words."""
    return [token for word in caption.split() for token in _word_ids(word)] + [EOS_ID]


def word_counts():
    """How often each word occurs in captions of every combination, held out or not."""
    from .scenes import draw_scene

    source = random.Random(5)
    counts = collections.Counter(dict.fromkeys(EXTRA_WORDS, EXTRA_COUNT))
    for _ in range(CORPUS_CAPTIONS):
        counts.update(re.findall(r"[a-z]{2,}", draw_scene(source, "any").caption))
    return counts


def _normaliser_only():
    """A model with the control symbols and the normaliser; its pieces are to be replaced."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(CHARACTERS)] * 10),
        model_writer=written,
        vocab_size=len(CHARACTERS) + 8,
        model_type="unigram",
        pad_id=0,
        eos_id=EOS_ID,
        unk_id=2,
        bos_id=-1,
        character_coverage=1.0,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc_cf",
        num_threads=1,
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(written.getvalue())
    return model


def build():
    """The serialized model."""
    model = _normaliser_only()
    control = [piece for piece in model.pieces if piece.type != piece.NORMAL]
    counts = word_counts()
    total = sum(counts.values())
    pieces = {SPACE + word: math.log(count / total) for word, count in counts.most_common()}
    for character in (SPACE, "a", SPACE + "a", *CHARACTERS):
        pieces.setdefault(character, CHARACTER_SCORE)
    pieces[SPACE + "a"] = math.log(1 / 10)  # the article
    if len(control) + len(pieces) > VOCABULARY_SIZE:
        raise ValueError(f"{len(control) + len(pieces)} pieces, limit {VOCABULARY_SIZE}")
    kept = [(piece.piece, piece.score, piece.type) for piece in control]
    kept += [(text, score, control[0].NORMAL) for text, score in pieces.items()]
    del model.pieces[:]
    for text, score, kind in kept:
        model.pieces.add(piece=text, score=score, type=kind)
    model.trainer_spec.vocab_size = len(kept)
    return model.SerializeToString()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, default=MODEL)
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(build())
    print(f"wrote {out}")


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
    from models.train import tokenizer

    tokenizer.main()
