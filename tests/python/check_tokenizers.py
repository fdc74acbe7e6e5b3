"""Checks that our token ids are those of the `tokenizers` package (20B) and of the `rwkv` package's tokenizer (World), to the
last one: on 10 MB of the dictionary gcide, and on made-up strings from all over Unicode.

Prints one line a check and closes with 'N passed, N failed'.
"""

import argparse
import json
import os
import random
import struct
import sys
import tempfile
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import rwkv
import tokenizers
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

from interop_support import Checks, Program

TEXT_BYTES = 10_000_000
ROOT = Path(__file__).parent.parent.parent


def random_strings(count):
    """Strings of characters that tokenizers treat differently; the same ones in each run."""
    generator = random.Random(5)
    ranges = [(0x20, 0x7F), (0x20, 0x21), (0, 0x20), (0xA0, 0x250), (0x300, 0x370), (0x900, 0x980), (0x1100, 0x1200),
              (0xAC00, 0xD7A4), (0x2000, 0x2070), (0x3000, 0x3100), (0x4E00, 0x5000), (0xF900, 0xFB00),
              (0x1D100, 0x1D200), (0x1F300, 0x1F700), (0x20000, 0x20100), (0, 0xD800), (0xE000, 0x110000)]
    words = ["'s", "'ll", "  ", " " * 25, "\n\n", "\r\n", "<|endoftext|>", "the ", "123", "e\u0301", "\u3000"]

    def part():
        if generator.random() < 0.3:
            return generator.choice(words)
        first, last = generator.choice(ranges)
        return "".join(chr(generator.randrange(first, last)) for _ in range(generator.randrange(1, 6)))

    return ["".join(part() for _ in range(generator.randrange(1, 12))) for _ in range(count)]


def ours(program, folder, name, source, tokenizer):
    """The ids of each document of `source`."""
    program.run("data", "build", source, "--tokenizer", tokenizer, "--no-append-eod", "--keep-empty", "--out-dtype", "i32",
                "--out", folder / name, "--force")
    index = (folder / f"{name}.idx").read_bytes()
    sequences, entries = struct.unpack_from("<QQ", index, 18)
    lengths = struct.unpack_from(f"<{sequences}i", index, 34)
    document_ends = struct.unpack_from(f"<{entries}q", index, 34 + 12 * sequences)
    tokens = (folder / f"{name}.bin").read_bytes()
    ids = struct.unpack(f"<{len(tokens) // 4}i", tokens)
    out, at = [], 0
    for begin, end in zip(document_ends, document_ends[1:]):
        length = sum(lengths[begin:end])
        out.append(list(ids[at:at + length]))
        at += length
    return out


def same(found, expected):
    differences = sum(a != b for a, b in zip(found, expected)) + abs(len(found) - len(expected))
    assert differences == 0, f"{differences} differences"
    return f"{len(expected)} tokens, 0 differences" if not expected or isinstance(expected[0], int) else f"{len(expected)} texts"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rwkv", required=True)
    options = parser.parse_args()
    files = Path(os.environ.get("RWKV_TOKENIZERS", ROOT / "tokenizers"))
    gcide = Path(os.environ.get("RWKV_GCIDE", ROOT / "corpus/gcide.txt"))
    bpe = tokenizers.Tokenizer.from_file(str(files / "20B_tokenizer.json"))
    world = TRIE_TOKENIZER(str(Path(rwkv.__file__).parent / "rwkv_vocab_v20230424.txt"))
    kinds = {
        "20B": (files / "20B_tokenizer.json", lambda text: bpe.encode(text, add_special_tokens=False).ids),
        "World": (files / "rwkv_vocab_v20230424.txt", world.encode),
    }
    checks = Checks()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = Program(options.rwkv, folder)
        text = gcide.read_bytes()[:TEXT_BYTES].decode("utf-8", "replace")  # the dictionary has ill-formed bytes
        (folder / "gcide.txt").write_bytes(text.encode())
        strings = random_strings(20000)
        (folder / "strings.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in strings))
        for kind, (tokenizer, encode) in kinds.items():
            checks(f"{kind}: 10 MB of gcide as one text",
                   lambda: same(ours(program, folder, "gcide", folder / "gcide.txt", tokenizer)[0], encode(text)))
            checks(f"{kind}: strings from all over Unicode",
                   lambda: same(ours(program, folder, "strings", folder / "strings.jsonl", tokenizer),
                                [encode(one) for one in strings]))
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 0 if checks.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
