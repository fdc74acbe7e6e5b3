"""Times our tokenizers beside the `tokenizers` package and the `rwkv` package's World tokenizer, on one core and one text,
in turns. Every way of calling the packages that might be fast is tried, and the fastest counts."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import rwkv
import tokenizers
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

DOCUMENT = 16384  # characters: about what a document of a corpus has


def ours(program, tokenizer, text_file):
    out = subprocess.run([program, tokenizer, text_file, "1"], check=True, capture_output=True, text=True).stdout
    found = json.loads(out)
    return found["tokens"], found["best_s"]


def timed(count):
    start = time.perf_counter()
    tokens = count()
    return tokens, time.perf_counter() - start


def contenders(options, text):
    bpe = tokenizers.Tokenizer.from_file(str(options.tokenizers / "20B_tokenizer.json"))
    world_file = options.tokenizers / "rwkv_vocab_v20230424.txt"
    world = TRIE_TOKENIZER(str(Path(rwkv.__file__).parent / "rwkv_vocab_v20230424.txt"))
    lines = text.splitlines(keepends=True)
    documents = [text[at:at + DOCUMENT] for at in range(0, len(text), DOCUMENT)]

    def batches(parts, encode, size=1000):
        return sum(len(one.ids) for at in range(0, len(parts), size) for one in encode(parts[at:at + size]))

    return {
        "ours, 20B": lambda: ours(options.program, options.tokenizers / "20B_tokenizer.json", options.text),
        "ours, World": lambda: ours(options.program, world_file, options.text),
        "tokenizers, 20B, documents": lambda: timed(lambda: batches(documents, bpe.encode_batch_fast)),
        "tokenizers, 20B, lines": lambda: timed(lambda: batches(lines, bpe.encode_batch_fast)),
        "rwkv, World, whole": lambda: timed(lambda: len(world.encode(text))),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default="build/cpu/bench_tokenizers")
    parser.add_argument("--tokenizers", type=Path, default=Path("tokenizers"))
    parser.add_argument("--text", type=Path, default=Path("corpus/gcide.txt"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    text = options.text.read_bytes().decode("utf-8", "replace")
    size = len(text.encode())
    print(f"{options.text}: {size} bytes; tokenizers {tokenizers.__version__}; one core, best of {options.rounds} rounds")
    best = {}
    for _ in range(options.rounds):
        for name, run in contenders(options, text).items():
            tokens, seconds = run()
            best[name] = min(best.get(name, (tokens, seconds)), (tokens, seconds), key=lambda pair: pair[1])
    for name, (tokens, seconds) in best.items():
        print(f"{name:<28} {size / seconds / 1e6:8.2f} MB/s  {tokens / seconds / 1e6:7.3f} million tokens/s")
    fastest_peer = max(size / s for name, (_, s) in best.items() if not name.startswith("ours"))
    slowest_ours = min(size / s for name, (_, s) in best.items() if name.startswith("ours"))
    print(f"our slower one is {slowest_ours / fastest_peer:.1f} times as fast as the fastest other")
    return 0 if slowest_ours >= fastest_peer else 1


if __name__ == "__main__":
    sys.exit(main())
