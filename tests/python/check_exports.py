"""Trains a tiny model with `rwkv`, then reads its files with the programs people use.

Prints one line a check and closes with 'N passed, N failed'.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["RWKV_JIT_ON"] = "0"
os.environ["RWKV_CUDA_ON"] = "0"

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

CONFIG = """
model: {{n_layer: 2, n_embd: 32{extra_model}}}
data: {{kind: bytes, path: {text}}}
train: {{out_dir: {out}, ctx_len: 32, micro_bsz: 4, max_steps: 30}}
schedule: {{unit: steps, segments: [{{until: 30, lr: {{exp: [1.0e-2, 1.0e-3]}}}}]}}
"""

IDS = [10, 84, 104, 101, 32, 99, 97, 116, 32, 115, 97, 116, 32, 111, 110, 46, 10, 84]


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, arguments))}: exit {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def train(program, folder, extra_model=""):
    """A model of 30 steps in `folder`; returns the path of its .pth."""
    folder.mkdir()
    text = folder / "text.txt"
    text.write_text("The cat sat on the mat. The dog sat on the log.\n" * 400)
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(text=text, out=folder / "out", extra_model=extra_model))
    run(program, "train", config)
    return folder / "out" / "rwkv-30.pth"


def logits_of(program, model, mode, folder):
    ids, out = folder / "ids.json", folder / f"logits-{mode}.json"
    ids.write_text(json.dumps(IDS))
    run(program, "logits", "--model", model, "--ids", ids, "--out", out, "--mode", mode)
    return torch.tensor(json.loads(out.read_text()), dtype=torch.float64)


def reference(w, ids):
    """RWKV-4 token by token in float64, from the formulas of arXiv:2305.13048."""
    w = {name: tensor.double().squeeze() for name, tensor in w.items()}

    def norm(x, name):
        return F.layer_norm(x, x.shape, w[name + ".weight"], w[name + ".bias"], 1e-5)

    layers = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
    width = w["emb.weight"].shape[1]
    zeros = lambda n: torch.zeros(n, dtype=torch.float64)
    before = [[zeros(width), zeros(width)] for _ in range(layers)]
    sums = [[zeros(w[f"blocks.{i}.att.time_decay"].shape[0]) for _ in range(2)] for i in range(layers)]
    rows = []
    for token in ids:
        x = norm(w["emb.weight"][token], "blocks.0.ln0")
        for i in range(layers):
            att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."

            def mixed(z, previous, prefix, which):
                m = w[prefix + "time_mix_" + which]
                return z * m + previous * (1 - m)

            z = norm(x, f"blocks.{i}.ln1")
            k = w[att + "key.weight"] @ mixed(z, before[i][0], att, "k")
            v = w[att + "value.weight"] @ mixed(z, before[i][0], att, "v")
            r = w[att + "receptance.weight"] @ mixed(z, before[i][0], att, "r")
            before[i][0] = z
            a, b = sums[i]
            now = torch.exp(w[att + "time_first"] + k)
            y = (a + now * v) / (b + now)
            decay = torch.exp(-torch.exp(w[att + "time_decay"]))
            sums[i] = [decay * a + torch.exp(k) * v, decay * b + torch.exp(k)]
            x = x + w[att + "output.weight"] @ (torch.sigmoid(r) * y)
            z = norm(x, f"blocks.{i}.ln2")
            k = torch.relu(w[ffn + "key.weight"] @ mixed(z, before[i][1], ffn, "k")) ** 2
            r = w[ffn + "receptance.weight"] @ mixed(z, before[i][1], ffn, "r")
            before[i][1] = z
            x = x + torch.sigmoid(r) * (w[ffn + "value.weight"] @ k)
        rows.append(w["head.weight"] @ norm(x, "ln_out"))
    return torch.stack(rows)


def check_load(pth, checkpoint):
    plain = torch.load(pth)  # weights_only by default
    mapped = torch.load(pth, mmap=True)
    masters = load_file(checkpoint / "model.safetensors")
    assert list(plain) == list(mapped) and set(plain) == set(masters), "names differ"
    for name, tensor in plain.items():
        assert tensor.is_contiguous() and tensor.dtype == torch.float32, name
        assert torch.equal(tensor, masters[name]) and torch.equal(tensor, mapped[name]), name
    assert plain["blocks.0.att.time_mix_k"].shape == (1, 1, 32)


def check_reference(program, pth, folder):
    expected = reference(torch.load(pth), IDS)
    for mode in ("parallel", "recurrent"):
        worst = (logits_of(program, pth, mode, folder) - expected).abs().max().item()
        assert worst < 2e-5, f"{mode}: logits differ by {worst}"


def check_sources_agree(program, pth, checkpoint, folder):
    first = logits_of(program, pth, "parallel", folder)
    for model in (checkpoint, checkpoint / "model.safetensors"):
        assert torch.equal(first, logits_of(program, model, "parallel", folder)), model


def check_rwkv_package(program, pth, folder):
    from rwkv.model import RWKV

    net = RWKV(model=str(pth), strategy="cpu fp32", verbose=False)
    theirs, _ = net.forward(IDS, None, full_output=True)
    worst = (logits_of(program, pth, "parallel", folder) - theirs.double()).abs().max().item()
    assert worst < 1e-4, f"logits differ by {worst}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rwkv", required=True, help="the program to check")
    program = str(Path(parser.parse_args().rwkv).resolve())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pth = train(program, folder / "plain")
        checkpoint = pth.parent / "step-00000030"
        wide = train(program, folder / "wide", ", dim_att: 64, dim_ffn: 96")
        checks = {
            "torch.load reads rwkv-N.pth, mmap too; equal to model.safetensors": lambda: check_load(pth, checkpoint),
            "logits equal an independent float64 forward pass": lambda: check_reference(program, pth, folder),
            "the same with dim_att and dim_ffn of their own": lambda: check_reference(program, wide, folder),
            "logits are equal from .pth, checkpoint folder, safetensors": lambda: check_sources_agree(
                program, pth, checkpoint, folder),
            "logits equal those of the rwkv package": lambda: check_rwkv_package(program, pth, folder),
        }
        failed = 0
        for name, check in checks.items():
            try:
                check()
                print("ok    ", name)
            except Exception as error:  # every check must be counted
                failed += 1
                print("FAILED", name, "-", error)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
