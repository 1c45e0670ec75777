"""Token ids of transformers' T5Tokenizer, and Python's str.lower() and str.strip(), for tests/engine/text.

Writes tokenizer/cases.json, tokenizer/python_text.json and tokenizer/spiece.model, a small model of its own with other
letters and no normalization. Thousands of texts are not stored but drawn from fragments by a generator that
tests/engine/text/tokenizer_test.cc has as well; of their ids a checksum is stored. Made with transformers 4.57.1,
sentencepiece 0.2.0 and Python 3.11 (Unicode 14); run it again after changing it:
    python3 tests/golden/tokenizer.py
"""

import io
import json
import pathlib
import sys
import tempfile
import warnings

import sentencepiece
import transformers

OUT = pathlib.Path(__file__).parent / "tokenizer"
ROOT = pathlib.Path(__file__).parents[2]
BUNDLED = "models/shapes-256/tokenizer"
DRAWN = 2000
LIMITS = [120, 300, 40, 8, 2]
TEXT_LIMIT = 64

FRAGMENTS = [
    " ", "  ", "\t", "\n", "\u3000", "\u00a0", "\u200b", "\x1c", "\u2581", "\x7f", "\x01", "a", "red", " circle", "Blue ",
    "square", "A photo of ", "carrot,", " robot", "zebra!", " the left of", "corner", "on a gradient", "</s>", " </s> ",
    "<pad>", "<unk>", "<extra_id_0>", " <extra_id_99> ", "<extra_id_7>", "<extra_id_100>", "<EXTRA_ID_1>", "<", ">", "</",
    "<foo>", " <foo>", "<foo> ", "bar", "<one> ", " <one>", "'s", "...", "#1", "100%", "3.14", "Ⅷ", "ﬁ", "Ａ", "①", "½",
    "ΣΑΣ", "Σ", "ς", "σ", "İ", "ı", "I", "ẞ", "ß", "é", "e\u0301", "\u0301", "ñ", "日本", "語", "猫", "한국", "русский", " ЖУК",
    "עברית", "مرحبا", "हिन्दी", "ไทย", "🙂", "👩\u200d👩\u200d👧", "🇩🇪", "❤\ufe0f", "𝔘", "𐐀", "\U0001f9ff", "\ufeff", "\u202e",
    "\ufffd", "\u00ad", "x" * 40, "wordwordword ", "_", "-", "—", "\"", "\\", "\r\n", "unk", "s>", "extra_id_0", "&amp;",
]  # fmt: skip

TEXTS = [
    "", " ", "\n\t ", "a", "A", "A red circle and a blue square", "a small dog to the left of a big house", "</s>",
    "a</s>", "</s>a", "a </s> b", "</s></s>", "<pad>", "<unk>", "<unk> a", "a<unk>b", "<extra_id_0>", "Hello <extra_id_0>.",
    "<extra_id_0> hello <extra_id_1> world", "<extra_id_99><extra_id_98>", "<extra_id_100>", "< extra_id_0 >", "<extra_id_00>",
    "</S>", "<PAD> <Unk>", "▁", "▁▁a▁b▁", " ▁ a", "a  b\t\tc\n\nd", "\u3000wide\u3000", "\u00a0a\u00a0", "\u200ba\u200b", "\x1ca\x1f",
    "\x00", "a\x00b", "\x01\x02", "\x7f", "\u0085a\u0085", "ΟΔΥΣΣΕΥΣ", "ΟΔΥΣΣΕΥΣ ΣΑΣ.", "Σ", "ΑΣ\u0301", "ΑΣ\u0301Β", "İstanbul",
    "IĞDIR", "STRASSE ẞ", "ÀÉÎ", "A\u0300", "日本語の猫", "한국어 고양이", "РУССКИЙ ЖУК", "שלום עולם", "مرحبا بالعالم", "नमस्ते",
    "สวัสดี", "🙂", "🙂🙃 a 🙂", "👩‍👩‍👧‍👦 family", "🇩🇪🇫🇷", "❤️ heart", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "ﬁne ﬂow", "ＦＵＬＬ ｗｉｄｔｈ", "①②③ Ⅷ ½",
    "e\u0301 \u00e9", "\ufeffbom", "\u202ertl\u202c", "\ufffd", "\U0010ffff", "\U000e0041tag", "a\u00adb", "...", "?!?!", "a, b; c: d.",
    "100% of 3.14 #1 @x", "https://example.com/a?b=c&d", "C:\\path\\file", "snake_case CamelCase kebab-case", "\"quoted\" 'single'",
    "<foo>", "a <foo> b", "a<foo>b", " <foo> ", "<one>", "a <one> b", "a<one>b", "<one><foo>", "<", ">", "</", "<<</s>>>",
    "a " * 400, "red circle, " * 60, "x" * 5000, "🙂" * 300, "Σ" * 200, "</s> " * 150, "日" * 130, "a red circle </s> " * 20,
    " ".join(["blue square"] * 59), " ".join(["blue square"] * 60), "a" + " " * 3000 + "b",
]  # fmt: skip

CORPUS = """
the quick brown fox jumps over the lazy dog. a red circle to the left of a blue square, above a green triangle!
der schnelle braune fuchs springt über den faulen hund. ein roter kreis größer als ein blaues quadrat?
le vif renard brun saute par-dessus le chien paresseux. à côté d'un carré bleu où l'été s'achève…
быстрая коричневая лиса прыгает через ленивую собаку. красный круг слева от синего квадрата.
γρήγορη καφέ αλεπού πηδά πάνω από τον τεμπέλη σκύλο. κόκκινος κύκλος οδυσσεύς.
素早い茶色の狐がのろまな犬を飛び越える。赤い丸と青い四角。日本語の猫が好きです。
빠른 갈색 여우가 게으른 개를 뛰어넘는다. 빨간 원과 파란 사각형. 한국어 고양이.
"""

MASK = (1 << 64) - 1


class Generator:
    """The 64-bit linear congruential generator of Knuth's MMIX, of which the upper 32 bits are used."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK
        return (self.state >> 32) % n

    def text(self):
        parts = []
        for _ in range(1 + self.below(12)):
            if self.below(8) == 0:
                code = 1 + self.below(0x10FFFF - 0x800)
                parts.append(chr(code + 0x800 if code >= 0xD800 else code))
            else:
                parts.append(FRAGMENTS[self.below(len(FRAGMENTS))])
        return "".join(parts)


def checksum(ids):
    """FNV-1a of the ids as 32-bit little-endian integers, folded to 16 bits."""
    value = 0x811C9DC5
    for id_ in ids:
        for byte in id_.to_bytes(4, "little"):
            value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"{value >> 16 ^ value & 0xFFFF:04x}"


def train(path):
    model = io.BytesIO()
    lines = [line for line in CORPUS.strip().split("\n") for _ in range(3)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="unigram", vocab_size=205,
        character_coverage=1.0, normalization_rule_name="identity", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        num_threads=1, user_defined_symbols=["<sep>"], minloglevel=2,
    )  # fmt: skip
    path.write_bytes(model.getvalue())


def added(content, **flags):
    return {"content": content, "special": True} | flags


EXTRA = [f"<extra_id_{i}>" for i in range(100)]
COMMON = {"0": added("<pad>"), "1": added("</s>"), "2": added("<unk>")}


def variants(bundled_size):
    """Folders beside a spiece.model, as real checkpoints and awkward ones have them."""
    bundled = {name: json.loads((ROOT / BUNDLED / name).read_text()) for name in
               ("tokenizer_config.json", "special_tokens_map.json")}  # fmt: skip
    extra_decoder = {str(bundled_size + 99 - i): added(token, lstrip=True, rstrip=True) for i, token in enumerate(EXTRA)}
    plain_decoder = {str(bundled_size + 99 - i): added(token) for i, token in enumerate(EXTRA)}
    pixart = {"additional_special_tokens": EXTRA, "clean_up_tokenization_spaces": True, "eos_token": "</s>",
              "extra_ids": 100, "model_max_length": 512, "pad_token": "<pad>", "sp_model_kwargs": {},
              "tokenizer_class": "T5Tokenizer", "unk_token": "<unk>"}  # fmt: skip
    one = added("<one>", single_word=True)
    return [
        ("bundled", BUNDLED, bundled),
        ("pixart", BUNDLED, {"tokenizer_config.json": pixart | {"legacy": True, "added_tokens_decoder": COMMON | extra_decoder}}),
        ("pixart, not legacy", BUNDLED, {"tokenizer_config.json": pixart | {"legacy": False, "added_tokens_decoder": COMMON | plain_decoder}}),
        ("no configs", BUNDLED, {}),
        ("no prefix space", BUNDLED, {"tokenizer_config.json": {"legacy": False, "add_prefix_space": False}}),
        ("old files", BUNDLED, {
            "tokenizer_config.json": {"model_max_length": 512, "extra_ids": 100, "additional_special_tokens": EXTRA},
            "special_tokens_map.json": {"eos_token": "</s>", "pad_token": added("<pad>"), "unk_token": "<unk>", "additional_special_tokens": EXTRA},
            "added_tokens.json": {token: bundled_size + 99 - i for i, token in enumerate(EXTRA)}}),
        ("own tokens", "tests/golden/tokenizer", {"tokenizer_config.json": {
            "legacy": False, "extra_ids": 0, "additional_special_tokens": ["<foo>"], "cls_token": "<bar>",
            "added_tokens_decoder": COMMON | {"210": one, "212": added("<o", lstrip=True)}}}),
        ("other letters", "tests/golden/tokenizer", {"tokenizer_config.json": {"legacy": False}}),
        ("other letters, legacy", "tests/golden/tokenizer", {"tokenizer_config.json": {"extra_ids": 3, "eos_token": "<sep>", "additional_special_tokens": ["<foo>"]}}),
    ]  # fmt: skip


def load(model, files):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "spiece.model").write_bytes((ROOT / model / "spiece.model").read_bytes())
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        return transformers.T5Tokenizer.from_pretrained(str(folder))


def encode(tokenizer, text, limit):
    out = tokenizer([text.lower().strip()], padding="max_length", max_length=limit, truncation=True)
    ids, mask = out.input_ids[0], out.attention_mask[0]
    real = sum(mask)
    assert len(ids) == limit and mask == [1] * real + [0] * (limit - real) and set(ids[real:]) <= {tokenizer.pad_token_id}, text
    return ids, real


def tokenizer_cases():
    generator = Generator(2026)
    drawn = [(generator.text(), LIMITS[generator.below(len(LIMITS))]) for _ in range(DRAWN)]
    size = sentencepiece.SentencePieceProcessor(str(ROOT / BUNDLED / "spiece.model")).get_piece_size()
    out = {"seed": 2026, "limits": LIMITS, "fragments": FRAGMENTS, "texts": TEXTS, "text_limit": TEXT_LIMIT, "variants": []}
    for name, model, files in variants(size):
        tokenizer = load(model, files)
        ids = []
        for text in TEXTS:
            padded, real = encode(tokenizer, text, TEXT_LIMIT)
            ids.append(padded[:real])
        sums = []
        for text, limit in drawn:
            padded, real = encode(tokenizer, text, limit)
            sums.append(checksum(padded + [real]))
        out["variants"].append({"name": name, "model": model + "/spiece.model", "files": files, "ids": ids,
                                "drawn": "".join(sums)})  # fmt: skip
    return out


def python_text():
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    generator = Generator(5)
    letters = ["Σ", "Σ", "Α", "a", "1", " ", ".", "'", "\u0301", "\u00ad", "\u02b0", "\u0345", "İ", "日", "🙂", "𐐀"]
    words = ["".join(letters[generator.below(len(letters))] for _ in range(1 + generator.below(6))) for _ in range(200)]
    return {
        "lower": {f"{code:x}": chr(code).lower() for code in codes if chr(code).lower() != chr(code)},
        "spaces": [code for code in codes if not chr(code).strip()],
        "words": {word: word.lower() for word in sorted(set(words))},
    }


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    OUT.mkdir(exist_ok=True)
    train(OUT / "spiece.model")
    (OUT / "cases.json").write_text(json.dumps(tokenizer_cases(), separators=(",", ":")) + "\n")
    (OUT / "python_text.json").write_text(json.dumps(python_text(), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    assert sys.version_info >= (3, 10)
    main()
