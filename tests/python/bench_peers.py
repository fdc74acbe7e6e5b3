#!/usr/bin/env python3
"""Our speed beside that of the programs that people use, one table: scripts/bench-peers runs this.

Every measurement is a process of its own, and ours and theirs take turns, so that a neighbour on the machine slows
both. Shown are medians over the rounds, and ours divided by theirs.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

# What is measured, and our bars: at least that many times a peer's speed ('bare': a share of the bare products).
STEPS = {
    "step L6 C256 T256 B4 V256": (dict(layers=6, width=256, ctx_len=256, batch=4, vocab=256),
                                  {"compile": 1.15, "transformers": 3, "gpt2": 1.1, "bare": 0.88}),
    "step L6 C512 T256 B8 V256": (dict(layers=6, width=512, ctx_len=256, batch=8, vocab=256),
                                  {"compile": 1.08, "transformers": 1.6, "gpt2": None, "bare": 0.93}),
    "step L6 C256 T1024 B4 V5000": (dict(layers=6, width=256, ctx_len=1024, batch=4, vocab=5000),
                                    {"compile": 1.3, "transformers": None, "gpt2": None, "bare": None}),
    "step L6 C512 T512 B12 V256": (dict(layers=6, width=512, ctx_len=512, batch=12, vocab=256),
                                   {"compile": None, "bare": None}),
}
WKV = dict(batch=8, ctx_len=256, width=512)
WKV_BARS = {"compile": 5, "transformers": 100}
GENERATION = dict(layers=12, width=768, vocab=50277)
PEAK_GB = 3.3     # L6 C512 T512 B12, fp32
BF16_RATIO = 1.7  # the same, bf16 over fp32
START_S = 1.5     # rwkv train to its first step, with the quickstart's model


# --- peers, each in a process of its own: bench_peers.py --peer NAME JSON ---

def median_seconds(work, seconds, warm_up=2):
    for _ in range(warm_up):
        work()
    times, begin = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peer_model(name, q):
    import torch
    if name == "compile":
        from rwkv4_torch import Rwkv4
        return Rwkv4(q["layers"], q["width"], q["vocab"])
    import transformers
    if name == "transformers":
        config = transformers.RwkvConfig(vocab_size=q["vocab"], context_length=q["ctx_len"], hidden_size=q["width"],
                                         num_hidden_layers=q["layers"], use_cache=False)
        model = transformers.RwkvForCausalLM(config)
    else:
        config = transformers.GPT2Config(vocab_size=q["vocab"], n_positions=q["ctx_len"], n_embd=q["width"],
                                         n_layer=q["layers"], n_head=q["width"] // 64, use_cache=False,
                                         resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
        model = transformers.GPT2LMHeadModel(config)

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(ids).logits
    return Logits()


def peer_step(name, q):
    import torch
    torch.manual_seed(42)
    model = peer_model(name, q).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    text = torch.randint(q["vocab"], (q["batch"], q["ctx_len"] + 1))
    inputs, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    half = q.get("precision") == "bf16"

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(inputs)
        loss = torch.nn.functional.cross_entropy(logits.float().view(-1, q["vocab"]), targets.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = median_seconds(step, q["seconds"])
    return {"tokens_per_s": q["batch"] * q["ctx_len"] / seconds,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def peer_wkv(name, q):
    import torch
    torch.manual_seed(42)
    shape = (q["batch"], q["ctx_len"], q["width"])
    decay, first = (torch.randn(q["width"], requires_grad=True) for _ in range(2))
    k, v = (torch.randn(shape, requires_grad=True) for _ in range(2))
    gy = torch.randn(shape)
    if name == "compile":
        import rwkv4_torch
        piece = torch.compile(rwkv4_torch.wkv_piece)
        forward = lambda: rwkv4_torch.wkv(decay, first, k, v, piece)  # noqa: E731
    else:
        from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu
        forward = lambda: rwkv_linear_attention_cpu(decay, first, k, v)[0]  # noqa: E731
    work = lambda: torch.autograd.grad(forward(), (decay, first, k, v), gy)  # noqa: E731
    seconds = median_seconds(work, q["seconds"], warm_up=1)
    return {"ns_per_element": seconds / k.numel() * 1e9}


def peer_generation(name, q):
    import torch
    if name == "rwkv":
        os.environ["RWKV_JIT_ON"] = "1"
        os.environ["RWKV_CUDA_ON"] = "0"
        from rwkv.model import RWKV
        model = RWKV(model=q["pth"], strategy="cpu fp32")
        logits, state = model.forward([1] * q["context"], None)

        def token():
            nonlocal logits, state
            logits, state = model.forward([int(logits.argmax())], state)
    else:
        import transformers
        model = transformers.RwkvForCausalLM.from_pretrained(q["hf"]).eval()
        out = model(torch.ones((1, q["context"]), dtype=torch.long), use_cache=True)

        def token():
            nonlocal out
            out = model(out.logits[:, -1:].argmax(-1), state=out.state, use_cache=True)
    with torch.no_grad():
        return {"tokens_per_s": 1 / median_seconds(token, q["seconds"])}


def run_peer(kind, name, question):
    import torch
    torch.set_num_threads(question["threads"])
    return {"step": peer_step, "wkv": peer_wkv, "generation": peer_generation}[kind](name, question)


# --- the table ---

class Table:
    """Rounds of ours and theirs in turn."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.rows = []

    def environment(self, threads):
        return dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1")

    def peer(self, kind, name, question):
        command = [sys.executable, os.path.abspath(__file__), "--peer", kind, name, json.dumps(question)]
        return self.run(command, question["threads"])

    def ours(self, threads, *words):
        return self.run([self.arguments.rwkv, "bench", *map(str, words), "--threads", str(threads), "--json"], threads)

    def run(self, command, threads):
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment(threads))
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command[:6])}: exit {done.returncode}: {done.stderr[-400:]}")
        return json.loads(done.stdout[done.stdout.index("{"):])

    def add(self, what, unit, ours, theirs=None, peer="", bar=None, lower=False):
        """One row. lower: a small number is the better one."""
        if theirs is None:
            ratio, good = "", None if bar is None else (ours <= bar if lower else ours >= bar)
        else:
            value = theirs / ours if lower else ours / theirs
            ratio, good = f"{value:.2f}x", None if bar is None else value >= bar
        wanted = "" if bar is None else (f"<= {bar:g}" if lower and theirs is None else f">= {bar:g}")
        row = {"what": what, "unit": unit, "ours": ours, "peer": peer, "theirs": theirs, "ratio": ratio,
               "wanted": wanted, "pass": good}
        self.rows.append(row)
        shown = "" if theirs is None else f"{theirs:.4g}"
        print(f"{what:<42} {ours:>9.4g} {unit:<11} {peer:<13} {shown:>9} {ratio:>8} {wanted:>8} "
              f"{'' if good is None else 'pass' if good else 'FAIL'}", flush=True)


def medians(rounds, key):
    return statistics.median(answer[key] for answer in rounds)


def step_words(q, precision="fp32"):
    return ["step", "--layers", q["layers"], "--width", q["width"], "--ctx-len", q["ctx_len"], "--batch", q["batch"],
            "--vocab", q["vocab"], "--precision", precision]


def bench_wkv(table, threads):
    a = table.arguments
    q = dict(WKV, seconds=a.seconds, threads=threads)
    ours, theirs = [], {name: [] for name in WKV_BARS}
    for _ in range(a.rounds):
        answer = table.ours(threads, "operators", "--batch", q["batch"], "--ctx-len", q["ctx_len"], "--width", q["width"],
                            "--seconds", a.seconds)
        ours.append(next(row for row in answer["operators"] if row["operator"] == "wkv4 forward + backward"))
        for name in theirs:
            theirs[name].append(table.peer("wkv", name, q))
    for name, bar in WKV_BARS.items():
        table.add(f"wkv (8,256,512) fwd+bwd, {threads} threads", "ns/element", medians(ours, "ns_per_element"),
                  medians(theirs[name], "ns_per_element"), name, bar, lower=True)


def bench_step(table, title, q, bars, threads):
    a = table.arguments
    ours, theirs = [], {name: [] for name in bars if name != "bare"}
    for _ in range(a.rounds):
        ours.append(table.ours(threads, *step_words(q), "--seconds", a.seconds))
        for name in theirs:
            theirs[name].append(table.peer("step", name, dict(q, seconds=a.seconds, threads=threads)))
    title = f"{title}, {threads} threads"
    speed = medians(ours, "tokens_per_s")
    for name in theirs:
        table.add(title, "tokens/s", speed, medians(theirs[name], "tokens_per_s"), name, bars[name])
    table.add(title, "of bare", medians(ours, "bare_share"), bar=bars["bare"])
    table.add(title, "of product", medians(ours, "product_share"))
    return ours


def bench_large_step(table, threads):
    title = "step L6 C512 T512 B12 V256"
    q, bars = STEPS[title]
    wide = bench_step(table, title, q, bars, threads)
    table.add(f"{title}, peak memory", "GB", medians(wide, "peak_bytes") / 1e9, bar=PEAK_GB, lower=True)
    half, theirs = [], []
    for _ in range(table.arguments.rounds):
        half.append(table.ours(threads, *step_words(q, "bf16"), "--seconds", table.arguments.seconds))
        theirs.append(table.peer("step", "compile", dict(q, precision="bf16", seconds=table.arguments.seconds,
                                                         threads=threads)))
    table.add(f"{title}, bf16", "tokens/s", medians(half, "tokens_per_s"), medians(wide, "tokens_per_s"), "ours in fp32",
              BF16_RATIO)
    table.add(f"{title}, bf16", "tokens/s", medians(half, "tokens_per_s"), medians(theirs, "tokens_per_s"), "compile")


def make_weights(table, folder):
    """Random weights of the 169M shape as .pth and in Hugging Face's layout, by our own program."""
    text = os.path.join(folder, "text.bin")
    with open(text, "wb") as file:
        file.write(bytes(range(256)) * 16)
    config = os.path.join(folder, "bench.yaml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(f"model: {{n_layer: {GENERATION['layers']}, n_embd: {GENERATION['width']}, "
                   f"vocab_size: {GENERATION['vocab']}}}\n"
                   f"data: {{kind: raw, dtype: u16, path: {text}, sampler: cubic}}\n"
                   f"train: {{out_dir: {folder}/run, ctx_len: 16, micro_bsz: 1, max_steps: 1, stage: 1}}\n"
                   "schedule: {segments: [{until: 1e9, lr: {constant: 1.0e-4}}]}\n")
    subprocess.run([table.arguments.rwkv, "train", config], check=True, capture_output=True)
    pth, hf = os.path.join(folder, "run", "rwkv-init.pth"), os.path.join(folder, "hf")
    subprocess.run([table.arguments.rwkv, "convert", pth, hf, "--to", "hf"], check=True, capture_output=True)
    return pth, hf


def bench_generation(table, threads, bar):
    a = table.arguments
    with tempfile.TemporaryDirectory() as folder:
        pth, hf = make_weights(table, folder)
        question = dict(pth=pth, hf=hf, context=128, seconds=a.seconds, threads=threads)
        ours, theirs = [], {"rwkv": [], "transformers": []}
        for _ in range(a.rounds):
            ours.append(table.ours(threads, "generation", "--model", pth, "--at", "128"))
            for name in theirs:
                theirs[name].append(table.peer("generation", name, question))
        speed = statistics.median(answer["points"][0]["tokens_per_s"] for answer in ours)
        title = f"generation L12 C768 V50277, {threads} threads"
        for name in theirs:
            table.add(title, "tokens/s", speed, medians(theirs[name], "tokens_per_s"), name,
                      bar if name == "rwkv" else None)
        table.add(title, "of read", medians(ours, "read_share"))
        contexts = table.ours(threads, "generation", "--model", pth, "--at", "128,1000,8000")
        table.add("  the same after 128, 1000, 8000: time", "spread", contexts["time_spread"], bar=0.05, lower=True)
        table.add("  memory", "spread", contexts["memory_spread"], bar=0.05, lower=True)


def bench_start(table, threads):
    """Seconds from the call of `rwkv train` to its first step, with the quickstart's model."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        text = os.path.join(folder, "text.txt")
        with open(text, "w", encoding="utf-8") as file:
            file.write("The cat sat on the mat, and the dog on the log.\n" * 60000)
        for i in range(table.arguments.rounds):
            out = os.path.join(folder, str(i))
            command = [table.arguments.rwkv, "train", table.arguments.quickstart, "--set", f"data.path={text}", "--set",
                       f"train.out_dir={out}", "--set", "train.max_steps=1", "--set", "validation.tail_tokens=0", "--set",
                       "validation.every=0", "--set", "sample.every=0"]
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       env=table.environment(threads))
            log = os.path.join(out, "metrics.jsonl")
            while process.poll() is None and not (os.path.exists(log) and os.path.getsize(log) > 0):
                time.sleep(0.002)
            times.append(time.perf_counter() - start)
            if process.wait() != 0:
                raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}")
    table.add(f"rwkv train to its first step, {threads} threads", "s", statistics.median(times), bar=START_S, lower=True)


def main():
    if len(sys.argv) == 5 and sys.argv[1] == "--peer":
        print(json.dumps(run_peer(sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rwkv", required=True, help="the program")
    parser.add_argument("--quickstart", required=True, help="configs/quickstart.yaml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--only", default="", help="parts of it: wkv, step, large, generation, start")
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")
    table = Table(parser.parse_args())
    cores = len(os.sched_getaffinity(0))
    steps = {title: entry for title, entry in STEPS.items() if "B12" not in title}
    parts = {
        "wkv": lambda: bench_wkv(table, 1),
        "step": lambda: [bench_step(table, title, q, bars, 1) for title, (q, bars) in steps.items()],
        "large": lambda: bench_large_step(table, 1),
        "generation": lambda: [bench_generation(table, n, {1: 1.5, 2: 2.5}[n]) for n in (1, 2) if n <= cores],
        "start": lambda: bench_start(table, 1),
    }
    wanted = table.arguments.only.split(",") if table.arguments.only else list(parts)
    unknown = [name for name in wanted if name not in parts]
    if unknown:
        parser.error(f"--only: no part is called {unknown[0]}; use some of {', '.join(parts)}")
    print(f"{'':<42} {'ours':>9} {'':<11} {'peer':<13} {'theirs':>9} {'ratio':>8} {'wanted':>8}")
    for name in wanted:
        parts[name]()
    if table.arguments.json:
        with open(table.arguments.json, "w", encoding="utf-8") as file:
            json.dump(table.rows, file, indent=2)
    failed = sum(row["pass"] is False for row in table.rows)
    print(f"{sum(row['pass'] is True for row in table.rows)} bars reached, {failed} not")


if __name__ == "__main__":
    main()
