"""compare_runs.py A B [--loss REL] [--weights ABS]: compares losses by step and final weights of two runs' folders."""
import argparse
import json
import struct
import sys
from pathlib import Path


def losses(folder):
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}


def weights(folder):
    data = (sorted(folder.glob("step-????????"))[-1] / "model.safetensors").read_bytes()
    header_size = struct.unpack("<Q", data[:8])[0]
    body = data[8 + header_size:]
    tensors = {}
    for name, info in json.loads(data[8:8 + header_size]).items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        tensors[name] = struct.unpack(f"<{(end - begin) // 4}f", body[begin:end])
    return tensors


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--loss", type=float, default=1e-6)
    parser.add_argument("--weights", type=float, default=1e-5)
    args = parser.parse_args()
    a, b = losses(args.a), losses(args.b)
    if a.keys() != b.keys() or not a:
        sys.exit(f"steps differ: {len(a)} and {len(b)}")
    loss = max(abs(a[step] - b[step]) / abs(a[step]) for step in a)
    wa, wb = weights(args.a), weights(args.b)
    if wa.keys() != wb.keys() or not wa:
        sys.exit("the names of weights differ")
    weight = max(abs(x - y) for name in wa for x, y in zip(wa[name], wb[name], strict=True))
    print(f"largest relative difference of losses {loss:.1e}, largest difference of weights {weight:.1e}")
    if loss > args.loss or weight > args.weights:
        sys.exit(f"more than {args.loss} and {args.weights}")


main()
