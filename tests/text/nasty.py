"""Strings that break tokenizers, and seeded random ones."""

import random

NASTY = [
    "",
    " ",
    "   ",
    "\n",
    "\r\n\r\n \t\t\r",
    "\x00",
    "a\x00b\x07\x1b[0m\x7f\x85",
    "<0x0A>",
    "<0x0A><0xE2>",
    "<|endoftext|>",
    "a<|endoftext|>b <|endoftext|>",
    "▁the ▁ Ġword Ċ",
    "\ufeffbyte order mark",
    "\ufffd\ufffe\uffff",
    "e\u0301 is not é",
    "नमस्ते, กำลัง, 한국어, עִבְרִית, العربية",
    "中文字符没有空格，標點也不同。",
    "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪 \U0010ffff",
    "\u2028\u2029\u00a0\u3000\u200b\u200d",
    "12345678901234567890 3.14159 ½ ٣٤٥ Ⅷ",
    "def f(x):\n        return x  +  1\n\n\n\tif y:\r\n\t\tpass",
    "#" * 100 + "=" * 1000,
    "a" * 5000,
    " " * 3000 + "x",
    "don't I'LL 'tis ’s it's",
]


def random_text(seed: int) -> str:
    """Code points from all planes, weighted towards ASCII; surrogates, which are no characters, left out."""
    rng = random.Random(seed)
    ranges = [(0, 0x80), (0x20, 0x7F), (9, 14), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(1, 400)))
