"""What best-fit packing leaves empty, what the search for near duplicates finds, misses and takes, beside datasketch.

Packing: the share of slots that hold tokens and of documents that stay whole, for each text at three lengths. Search: planted
copies of known Jaccard similarity, counted on sets of words; memory a document; MB per CPU second beside datasketch's MinHash
(128 permutations) and MinHashLSH on the same texts, split into words by the same call, in interleaved rounds.

    python -m bench.setup duplicates && bench/.venvs/duplicates/bin/python -m bench.train.duplicates
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from cloche.data import BestFit, Document, NearDuplicates, PackedTokens, documents, prepare, standard_library

RESULT = Path(__file__).parents[1] / "results" / "duplicates.json"
TEXTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "text"
LENGTHS = (128, 256, 1024)
ROUNDS, CHUNK, SAMPLE = 3, 4000, 1_500_000


def packing() -> dict:
    """{text: {length: figures}}."""
    corpora = {"standard library": list(map(str, standard_library()))}
    if TEXTS.is_dir():
        names = {
            "tinyshakespeare": "tinyshakespeare.txt",
            "TinyStories": "tinystories_sample_ascii.jsonl",
            "books": "books",
        }
        corpora |= {name: [str(TEXTS / path)] for name, path in names.items()}
    found: dict = {}
    for name, paths in corpora.items():
        with tempfile.TemporaryDirectory() as folder:
            prepare(paths, folder, vocab=4096)
            tokens = PackedTokens.open(folder, "train")
            found[name] = {"documents": tokens.documents, "tokens": len(tokens)}
            for length in LENGTHS:
                begin = time.process_time()
                layout, whole = BestFit().layout(tokens, length), BestFit(fill=0).layout(tokens, length)
                found[name][str(length)] = {
                    "used": round(layout.used, 5),
                    "whole": round(layout.whole, 4),
                    "used without cutting": round(whole.used, 5),
                    "whole without cutting": round(whole.whole, 4),
                    "cpu_seconds": round(time.process_time() - begin, 3),
                }
    return found


def planted(count: int = 2000) -> dict:
    """Recall and false positives on copies with edited words."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(5000)])
    originals = [rng.choice(words, size=rng.integers(100, 600)).tolist() for _ in range(count)]
    copies, truth = [], []
    for original in originals:
        copy = list(original)
        for place in rng.choice(len(copy), size=max(1, int(rng.uniform(0.002, 0.045) * len(copy))), replace=False):
            copy[place] = f"edited{rng.integers(10**9)}"
        sets = [{tuple(text[i : i + 5]) for i in range(len(text) - 4)} for text in (original, copy)]
        truth.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
        copies.append(copy)
    pieces = [("train", Document(str(i), " ".join(text))) for i, text in enumerate(originals + copies)]
    removed = NearDuplicates(threshold=0.8).find(lambda: iter(pieces))
    similarity, dropped = np.array(truth), removed.drop[count:]
    above = similarity >= 0.8
    design = above & (similarity < 0.85)
    return {
        "pairs above 0.8": int(above.sum()),
        "recall above 0.8": round(float(dropped[above].mean()), 4),
        "pairs of 0.80 to 0.85": int(design.sum()),
        "recall of 0.80 to 0.85": round(float(dropped[design].mean()), 4),
        "false positives": int(dropped[~above].sum() + removed.drop[:count].sum()),
        "pairs compared": removed.figures["compared"],
    }


def stream(count: int) -> Iterator[tuple[str, Document]]:
    """Documents that are never held together."""
    rng = np.random.default_rng(1)
    for i in range(count):
        yield "train", Document(str(i), " ".join(map(str, rng.integers(10**6, size=40).tolist())))


def memory() -> dict:
    """Peak bytes that the search holds, and the slope between two sizes."""
    peaks = {}
    for count in (10_000, 40_000):
        tracemalloc.start()
        NearDuplicates().find(lambda count=count: stream(count))
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    first, last = sorted(peaks)
    slope = (peaks[last] - peaks[first]) / (last - first)
    return {
        "peak_mb": {str(count): round(peak / 1e6, 1) for count, peak in peaks.items()},
        "bytes a document": round(slope),
    }


def speed() -> dict:
    """MB per CPU second, ours and datasketch's, and the ratio within a round."""
    text = "".join(document.text for document in documents(standard_library()))[:SAMPLE]
    texts = [text[i : i + CHUNK] for i in range(0, len(text), CHUNK)]
    pieces = [("train", Document(str(i), each)) for i, each in enumerate(texts)]

    def ours() -> None:
        NearDuplicates(threshold=0.8).find(lambda: iter(pieces))

    def theirs() -> None:
        from datasketch import MinHash, MinHashLSH

        index = MinHashLSH(threshold=0.8, num_perm=128)
        for i, each in enumerate(texts):
            words = each.split()
            signature = MinHash(num_perm=128)
            signature.update_batch({" ".join(words[j : j + 5]).encode() for j in range(max(1, len(words) - 4))})
            index.query(signature)
            index.insert(str(i), signature)

    seconds: dict[str, list[float]] = {"cloche": [], "datasketch": []}
    ours()  # fills the tables of powers
    for turn in range(ROUNDS):
        sides = [("cloche", ours), ("datasketch", theirs)]
        for name, side in sides if turn % 2 else reversed(sides):
            begin = time.process_time()
            side()
            seconds[name].append(time.process_time() - begin)
    megabytes = len(text.encode()) / 1e6
    ratios = [b / a for a, b in zip(seconds["cloche"], seconds["datasketch"], strict=True)]
    return {
        "megabytes": round(megabytes, 2),
        "mb_per_cpu_second": {name: round(megabytes / median(each), 2) for name, each in seconds.items()},
        "datasketch over cloche": {
            "median": round(median(ratios), 1),
            "least": round(min(ratios), 1),
            "most": round(max(ratios), 1),
        },
        "note": "ours also verifies every candidate by its whole sets, datasketch does not",
    }


def main() -> None:
    record = {
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "packing": packing(),
        "planted": planted(),
        "memory": memory(),
        "speed": speed(),
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
