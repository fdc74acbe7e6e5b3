"""Times generation by the rwkv package and by bench_generation, by turns; see scripts/bench-generate."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

LAYERS, WIDTH, VOCABULARY = 12, 768, 50277


def make_model(path):
    """Random weights of the released 169M model's sizes: speed does not depend on values."""
    import torch

    torch.manual_seed(1)
    weights = {}

    def matrix(name, rows, columns):
        weights[name] = torch.randn(rows, columns) / columns**0.5

    def norm(name):
        weights[name + ".weight"] = torch.ones(WIDTH)
        weights[name + ".bias"] = torch.zeros(WIDTH)

    matrix("emb.weight", VOCABULARY, WIDTH)
    norm("blocks.0.ln0")
    for layer in range(LAYERS):
        block = f"blocks.{layer}."
        norm(block + "ln1")
        norm(block + "ln2")
        weights[block + "att.time_decay"] = torch.linspace(-5, 3, WIDTH)
        weights[block + "att.time_first"] = torch.full((WIDTH,), -1.2)
        for part, names in (("att", "kvr"), ("ffn", "kr")):
            for name in names:
                weights[f"{block}{part}.time_mix_{name}"] = torch.rand(1, 1, WIDTH)
        for name in ("key", "value", "receptance", "output"):
            matrix(f"{block}att.{name}.weight", WIDTH, WIDTH)
        matrix(block + "ffn.key.weight", 4 * WIDTH, WIDTH)
        matrix(block + "ffn.receptance.weight", WIDTH, WIDTH)
        matrix(block + "ffn.value.weight", WIDTH, 4 * WIDTH)
    norm("ln_out")
    matrix("head.weight", VOCABULARY, WIDTH)
    torch.save(weights, path + ".part")
    os.replace(path + ".part", path)


def run_package(model_path, strategy, threads, tokens, prompt):
    """In a process of its own: prints times of single tokens, or of a prompt."""
    os.environ["RWKV_JIT_ON"] = "1"
    import torch
    from rwkv.model import RWKV

    torch.set_num_threads(threads)
    model = RWKV(model=model_path[: -len(".pth")], strategy=strategy, verbose=False)
    times = []
    with torch.no_grad():
        if prompt:
            ids = torch.randint(0, VOCABULARY, (prompt,)).tolist()
            for _ in range(3):
                start = time.perf_counter()
                model.forward(ids, None)
                times.append(time.perf_counter() - start)
        else:
            state, token = None, 1
            for step in range(tokens + 3):
                start = time.perf_counter()
                logits, state = model.forward([token], state)
                token = int(logits.argmax())
                if step >= 3:
                    times.append(time.perf_counter() - start)
    print(json.dumps(times))


def package(arguments, strategy, threads, prompt=0):
    command = [sys.executable, os.path.abspath(__file__), "--child", strategy, "--threads", str(threads),
               "--model", arguments.model, "--tokens", str(arguments.tokens), "--prompt", str(prompt)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    times = json.loads(out.splitlines()[-1])
    count = prompt or 1
    return count / min(times), count / statistics.median(times)


def ours(arguments, strategy, threads, *more):
    command = [arguments.bench, arguments.model, "--strategy", strategy, "--threads", str(threads), "--tokens",
               str(arguments.tokens), *more]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out.splitlines()[-1])


def compare(arguments, strategy, threads):
    theirs, mine = [], []
    for _ in range(arguments.rounds):
        theirs.append(package(arguments, strategy, threads))
        mine.append(ours(arguments, strategy, threads))
    their_best = max(best for best, _ in theirs)
    their_median = statistics.median(middle for _, middle in theirs)
    my_best = max(run["tokens_per_s_best"] for run in mine)
    my_median = statistics.median(run["tokens_per_s_median"] for run in mine)
    read = max(run["read_GB_per_s"] for run in mine)
    share = my_best * mine[0]["bytes_per_token"] / 1e9 / read
    print(f"{strategy:10} {threads} thread(s): rwkv package {their_best:6.1f} best {their_median:6.1f} median; ours "
          f"{my_best:6.1f} best {my_median:6.1f} median tokens/s: {my_best / their_best:4.2f}x best, "
          f"{my_median / their_median:4.2f}x median; {share:4.2f} of the read rate {read:4.1f} GB/s", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench")
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=0)
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        run_package(arguments.model, arguments.child, arguments.threads, arguments.tokens, arguments.prompt)
        return
    if not os.path.exists(arguments.model):
        print("bench-generate: writing", arguments.model, flush=True)
        make_model(arguments.model)
    for threads in (1, 2):
        compare(arguments, "cpu fp32", threads)
    for threads in (1, 2):
        for strategy in ("cpu bf16", "cpu fp16", "cpu fp32i8", "cpu fp32i8-seed"):
            run = ours(arguments, strategy, threads)
            print(f"{strategy:16} {threads} thread(s): ours {run['tokens_per_s_best']:6.1f} best "
                  f"{run['tokens_per_s_median']:6.1f} median tokens/s; {run['share_of_read_rate_best']:4.2f} of the "
                  f"read rate {run['read_GB_per_s']:4.1f} GB/s", flush=True)
    best, middle = package(arguments, "cpu fp32", 2, 512)
    print(f"prompt of 512, 2 threads: rwkv package {best:6.0f} best {middle:6.0f} median tokens/s")
    run = ours(arguments, "cpu fp32", 2, "--prompt", "512")["prompt"]
    print(f"prompt of 512, 2 threads: ours {run['tokens_per_s_best']:6.0f} best {run['tokens_per_s_median']:6.0f} "
          f"median tokens/s; {run['share_of_product_rate_best']:4.2f} of the product rate "
          f"{run['product_GFLOP_per_s']:5.0f} GFLOP/s", flush=True)
    for row in ours(arguments, "cpu fp32i8", 2, "--contexts")["contexts"]:
        print(f"cpu fp32i8, 2 threads, context {row['context']:5}: {row['ms_per_token_best']:6.3f} ms best "
              f"{row['ms_per_token_median']:6.3f} ms median; {row['resident_MB']:7.1f} MB")


if __name__ == "__main__":
    main()
