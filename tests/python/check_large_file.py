#!/usr/bin/env python3
"""check_large_file.py RWKV [--gb 28.3] [--load] [--convert]: reads a large .pth with little memory.

Writes a sparse RWKV-4 .pth of that size (a zip64 archive whose tensors are holes: it takes no room on
the disk), and runs `rwkv info` on it, which reads every tensor and its checksum; with --load also
`rwkv logits`, which builds the model in fp32, and with --convert `rwkv convert --dtype fp16`, whose
output is not sparse. Each runs with its heap limited by RLIMIT_DATA to what it may need, and its peak
resident memory is compared with the same bound:

    info       300 MB
    logits     the model in fp32, its largest tensor and 300 MB
    convert    the largest tensor and 300 MB
"""
import argparse
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import zlib

SPARE = 300 << 20
SHAPES = [(40, 5120), (32, 4096), (32, 2560), (24, 2048), (24, 1024), (12, 768)]  # released sizes
VOCAB = 50277


def tensors(layers, width):
    """Names and shapes of an RWKV-4."""
    yield "emb.weight", (VOCAB, width)
    for i in range(layers):
        block = f"blocks.{i}."
        for norm in ["ln0"] * (i == 0) + ["ln1", "ln2"]:
            yield block + norm + ".weight", (width,)
            yield block + norm + ".bias", (width,)
        for name in ("time_decay", "time_first"):
            yield block + "att." + name, (width,)
        for name in ("time_mix_k", "time_mix_v", "time_mix_r"):
            yield block + "att." + name, (1, 1, width)
        for name in ("key", "value", "receptance", "output"):
            yield block + f"att.{name}.weight", (width, width)
        for name in ("time_mix_k", "time_mix_r"):
            yield block + "ffn." + name, (1, 1, width)
        yield block + "ffn.key.weight", (4 * width, width)
        yield block + "ffn.receptance.weight", (width, width)
        yield block + "ffn.value.weight", (width, 4 * width)
    yield "ln_out.weight", (width,)
    yield "ln_out.bias", (width,)
    yield "head.weight", (VOCAB, width)


def numel(shape):
    n = 1
    for size in shape:
        n *= size
    return n


def crc_of_zeros(n):
    """CRC-32 of n zero bytes, in a time that grows with log(n)."""
    def times(matrix, vector):
        out = 0
        for row in matrix:
            if vector & 1:
                out ^= row
            vector >>= 1
        return out
    step = [times_zero_byte(1 << bit) for bit in range(32)]  # the register's change over one byte
    register = 0xffffffff
    while n:
        if n & 1:
            register = times(step, register)
        step = [times(step, row) for row in step]
        n >>= 1
    return register ^ 0xffffffff


def times_zero_byte(register):
    for _ in range(8):
        register = (register >> 1) ^ (0xedb88320 if register & 1 else 0)
    return register


def integer(n):
    if n < 256:
        return b"K" + struct.pack("<B", n)
    if n < 65536:
        return b"M" + struct.pack("<H", n)
    return b"J" + struct.pack("<i", n)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def pickle_of(entries):
    out = b"\x80\x02}("
    for key, (name, shape) in enumerate(entries):
        strides = [numel(shape[i + 1:]) for i in range(len(shape))]
        out += (text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") +
                b"ctorch\nBFloat16Storage\n" + text(str(key)) + text("cpu") + integer(numel(shape)) +
                b"tQK\x00(" + b"".join(map(integer, shape)) + b"t(" + b"".join(map(integer, strides)) +
                b"t\x89ccollections\nOrderedDict\n)RtR")
    return out + b"u."


def write_sparse_pth(path, layers, width):
    """The layout that torch.save writes: zip64 where sizes and offsets need it, data at multiples of 64."""
    entries = list(tensors(layers, width))
    records = [("archive/data.pkl", pickle_of(entries), 0)]
    records += [(f"archive/data/{i}", b"", 2 * numel(shape)) for i, (_, shape) in enumerate(entries)]
    records.append(("archive/version", b"3\n", 0))
    directory = b""
    with open(path, "wb") as file:
        for name, content, hole in records:
            offset, size = file.tell(), len(content) + hole
            crc = crc_of_zeros(hole) if hole else zlib.crc32(content)
            pad = -(offset + 30 + len(name) + 20 + 4) % 64
            extra = struct.pack("<HHQQ", 1, 16, size, size) + struct.pack("<HH", 0x4246, pad) + b"Z" * pad
            file.write(struct.pack("<IHHHIIIIHH", 0x04034b50, 45, 0, 0, 0, crc, 0xffffffff, 0xffffffff,
                                   len(name), len(extra)) + name.encode() + extra + content)
            file.seek(hole, os.SEEK_CUR)
            extra = struct.pack("<HHQQQ", 1, 24, size, size, offset)
            directory += struct.pack("<IHHHHIIIIHHHHHII", 0x02014b50, 45, 45, 0, 0, 0, crc, 0xffffffff,
                                     0xffffffff, len(name), len(extra), 0, 0, 0, 0, 0xffffffff)
            directory += name.encode() + extra
        at = file.tell()
        file.write(directory)
        file.write(struct.pack("<IQHHIIQQQQ", 0x06064b50, 44, 45, 45, 0, 0, len(records), len(records),
                               len(directory), at))
        file.write(struct.pack("<IIQI", 0x07064b50, 0, at + len(directory), 1))
        file.write(struct.pack("<IHHHHIIH", 0x06054b50, 0, 0, 0xffff, 0xffff, 0xffffffff, 0xffffffff, 0))
    return entries


def run(command, bound):
    """Runs with the heap limited to `bound` bytes; returns the peak of resident memory."""
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
        os.environ["OMP_NUM_THREADS"] = "1"
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
        os.execv(command[0], command)
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)}: ended with status {status}")
    return usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime


def report(what, command, bound):
    peak, seconds = run(command, bound)
    fits = peak <= bound
    print(f"{what}: peak memory {peak / 1e6:.0f} MB of at most {bound / 1e6:.0f}, {seconds:.1f} s of processor time"
          f"{'' if fits else ': TOO MUCH'}", flush=True)
    return fits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rwkv")
    parser.add_argument("--gb", type=float, default=28.3, help="size of the file, in GB")
    parser.add_argument("--load", action="store_true", help="compute logits too (needs twice the file as memory)")
    parser.add_argument("--convert", action="store_true", help="convert to fp16 too (needs the size on disk)")
    arguments = parser.parse_args()

    layers, width = next((shape for shape in SHAPES if 2 * sum(numel(s) for _, s in tensors(*shape)) <=
                          arguments.gb * 1.02e9), SHAPES[-1])
    # As many blocks of this width as fit the size.
    block = 2 * sum(numel(shape) for name, shape in tensors(1, width) if name.startswith("blocks."))
    layers = max(1, round((arguments.gb * 1e9 - 4 * VOCAB * width) / block))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "sparse.pth")
        entries = write_sparse_pth(path, layers, width)
        size = os.stat(path)
        print(f"sparse .pth of {size.st_size / 1e9:.2f} GB ({size.st_blocks * 512 / 1e6:.1f} MB on the disk): "
              f"RWKV-4 L{layers} C{width} V{VOCAB}, bf16", flush=True)
        largest = max(numel(shape) for _, shape in entries)
        good = report("info", [arguments.rwkv, "info", path], SPARE)
        if arguments.load:
            ids = os.path.join(folder, "ids.json")
            with open(ids, "w") as file:
                json.dump([1], file)
            model = 4 * sum(numel(shape) for _, shape in entries)
            good &= report("logits", [arguments.rwkv, "logits", "--model", path, "--ids", ids, "--out",
                                      os.path.join(folder, "logits.json"), "--mode", "recurrent"],
                           model + 2 * largest + SPARE)
        if arguments.convert:
            out = os.path.join(folder, "out.pth")
            good &= report("convert", [arguments.rwkv, "convert", path, out, "--to", "pth", "--dtype", "fp16"],
                           2 * largest + SPARE)
    sys.exit(not good)


if __name__ == "__main__":
    main()
