"""What the checks share: running our program, making models, an independent forward pass, counting."""

import json
import subprocess

import torch
import torch.nn.functional as F

IDS = [10, 84, 104, 101, 32, 99, 97, 116, 32, 115, 97, 116, 32, 111, 110, 46, 10, 84]


class Program:
    """Our program, run in a folder for its scratch files."""

    def __init__(self, path, folder):
        self.path, self.folder = path, folder

    def run(self, *arguments):
        done = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, arguments))}: exit {done.returncode}: {done.stderr[-500:]}")
        return done.stdout

    def refuses(self, text, *arguments):
        """Exit code 2 and one line with `text`."""
        done = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True)
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 2, f"{arguments}: exit {done.returncode} instead of 2: {done.stderr[-300:]}"
        assert len(lines) == 1 and text in lines[0], f"{arguments}: '{text}' is not in {lines}"

    def logits(self, model, mode="parallel", ids=IDS):
        question, answer = self.folder / "ids.json", self.folder / f"logits-{mode}.json"
        question.write_text(json.dumps(ids))
        self.run("logits", "--model", model, "--ids", question, "--out", answer, "--mode", mode)
        return torch.tensor(json.loads(answer.read_text()), dtype=torch.float64)

    def convert(self, source, target, to, *options):
        self.run("convert", source, target, "--to", to, *options)
        return target

    def info(self, path):
        return json.loads(self.run("info", path, "--json"))


class Checks:
    """Runs named checks, prints one line each and counts them."""

    def __init__(self):
        self.passed = self.failed = 0

    def __call__(self, name, check):
        try:
            note = check()
            self.passed += 1
            print("ok    ", name, f"({note})" if note else "", flush=True)
        except Exception as error:  # every check must be counted
            self.failed += 1
            print("FAILED", name, "-", type(error).__name__, str(error)[:600], flush=True)


def close(ours, theirs, bound):
    """The largest difference as a part of the largest logit, which must be below `bound`."""
    ours, theirs = ours.double(), theirs.double()
    assert ours.shape == theirs.shape, f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    scale = theirs.abs().max().item()
    assert scale > 1e-3, "logits are all but zero, nothing is compared"
    worst = (ours - theirs).abs().max().item() / scale
    assert worst < bound, f"logits differ by {worst:.2e} of their scale, allowed are {bound:.0e}"
    return f"{worst:.1e}"


def random_rwkv4(layers=3, width=32, dim_att=None, dim_ffn=None, vocab=256, seed=1):
    """Weights of a small RWKV-4 in fp32, large enough that every part shows in the logits."""
    g = torch.Generator().manual_seed(seed)
    dim_att, dim_ffn = dim_att or width, dim_ffn or 4 * width
    w = {}

    def normal(*shape, scale=1.0):
        return torch.randn(*shape, generator=g) * scale

    w["emb.weight"] = normal(vocab, width)
    for i in range(layers):
        for norm in (["ln0"] if i == 0 else []) + ["ln1", "ln2"]:
            w[f"blocks.{i}.{norm}.weight"] = 1 + normal(width, scale=0.1)
            w[f"blocks.{i}.{norm}.bias"] = normal(width, scale=0.1)
        att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        w[att + "time_decay"] = normal(dim_att, scale=2) - 1
        w[att + "time_first"] = normal(dim_att)
        for x in "kvr":
            w[att + f"time_mix_{x}"] = torch.rand(1, 1, width, generator=g)
        for name in ("key", "value", "receptance"):
            w[att + name + ".weight"] = normal(dim_att, width, scale=width**-0.5)
        w[att + "output.weight"] = normal(width, dim_att, scale=dim_att**-0.5)
        for x in "kr":
            w[ffn + f"time_mix_{x}"] = torch.rand(1, 1, width, generator=g)
        w[ffn + "key.weight"] = normal(dim_ffn, width, scale=width**-0.5)
        w[ffn + "receptance.weight"] = normal(width, width, scale=width**-0.5)
        w[ffn + "value.weight"] = normal(width, dim_ffn, scale=dim_ffn**-0.5)
    w["ln_out.weight"], w["ln_out.bias"] = 1 + normal(width, scale=0.1), normal(width, scale=0.1)
    w["head.weight"] = normal(vocab, width, scale=width**-0.5)
    return w


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
