"""Trains a tiny model, kills it between two checkpoints, resumes it, and reads its TensorBoard files with TensorBoard.

Prints one line a check and closes with 'N passed, N failed'.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

CONFIG = """
model: {{n_layer: 2, n_embd: 32}}
data: {{kind: bytes, path: {text}}}
train: {{out_dir: {out}, ctx_len: 32, micro_bsz: 4, max_steps: 200, threads: 1}}
schedule: {{unit: steps, segments: [{{until: 200, lr: {{exp: [1.0e-2, 1.0e-3]}}}}]}}
validation: {{tail_tokens: 4000, windows: 16, every: 20}}
sample: {{every: 50, tokens: 40}}
checkpoint: {{every: 20, keep_last: 2, export_pth: false}}
"""


def lines(path):
    """The whole lines of a file of JSON objects."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def kill_between_checkpoints(program, config, out):
    """Runs until some steps past a checkpoint, then kill -9. Returns the last step that was logged."""
    trainer = subprocess.Popen([program, "train", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            logged = lines(out / "metrics.jsonl")
            last = logged[-1]["step"] if logged else 0
            if last > 60 and last % 20 >= 5:
                return last
            time.sleep(0.002)
        raise RuntimeError("training made no progress")
    finally:
        trainer.kill()
        trainer.wait()


def train_killed(program, folder):
    out = folder / "out"
    text = folder / "text.txt"
    text.write_text("The cat sat on the mat. The dog sat on the log.\n" * 400)
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(text=text, out=out))
    for attempt in range(5):
        kill_between_checkpoints(program, config, out)
        saved = int((out / "latest").read_text().removeprefix("step-"))
        first = min(out.glob("events.out.tfevents.*"))
        stale = max(event.step for event in EventFileLoader(str(first)).Load())
        if stale > saved + 1:
            break
    else:
        raise RuntimeError("no kill left steps after the newest checkpoint")
    first.write_bytes(first.read_bytes()[:-7])  # and a record cut off, as a power cut leaves it
    done = subprocess.run([program, "train", config], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def read_scalars(out):
    """{tag: [(step, value)]} as TensorBoard keeps them."""
    accumulator = EventAccumulator(str(out), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator, {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def check_scalars(out, scalars):
    expected = {}
    for line in lines(out / "metrics.jsonl"):
        group = "validation" if "val_loss" in line else "train"
        for name, value in line.items():
            if name != "step":
                expected.setdefault(f"{group}/{name}", []).append((line["step"], float(np.float32(value))))
    assert set(scalars) == set(expected), f"tags {sorted(scalars)} instead of {sorted(expected)}"
    assert len(expected["train/loss"]) == 200 and len(expected["validation/val_loss"]) == 10
    for tag, values in expected.items():
        # An event that the cut took away is in metrics.jsonl alone: none of those before the checkpoint.
        assert scalars[tag] == values, f"{tag}: {len(scalars[tag])} values instead of {len(values)}, or others"


def check_steps(scalars):
    for tag, values in scalars.items():
        steps = [step for step, _ in values]
        assert steps == sorted(set(steps)), f"{tag}: a step appears twice or out of order"


def check_two_files(out):
    files = sorted(out.glob("events.out.tfevents.*"))
    assert len(files) >= 2, "the resumed session wrote no file of its own"


def check_texts(out, accumulator):
    samples = {line["step"]: line["text"] for line in lines(out / "samples.jsonl")}
    assert sorted(samples) == [50, 100, 150, 200], sorted(samples)
    read = {event.step: event.tensor_proto.string_val[0].decode() for event in accumulator.Tensors("sample/text")}
    assert sorted(read) == sorted(samples), sorted(read)
    plugin = accumulator.SummaryMetadata("sample/text").plugin_data.plugin_name
    assert plugin == "text", plugin
    for step, text in samples.items():
        if all(ord(c) >= 32 or c == "\n" for c in text) and "\N{REPLACEMENT CHARACTER}" not in text:
            assert read[step] == "\n".join("    " + line for line in text.split("\n")), f"step {step}"


def check_off(program, folder):
    config = folder / "config.yaml"
    out = folder / "off"
    settings = [f"train.out_dir={out}", "train.max_steps=5", "train.tensorboard=false"]
    command = [program, "train", config] + [part for s in settings for part in ("--set", s)]
    subprocess.run(command, check=True, capture_output=True)
    assert not list(out.glob("events.*")), "files were written although train.tensorboard is false"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rwkv", required=True, help="the program to check")
    program = str(Path(parser.parse_args().rwkv).resolve())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        out = train_killed(program, folder)
        accumulator, scalars = read_scalars(out)
        checks = {
            "the resumed session has a TensorBoard file of its own": lambda: check_two_files(out),
            "TensorBoard reads every value of metrics.jsonl": lambda: check_scalars(out, scalars),
            "after kill -9 and a resume TensorBoard shows no step twice": lambda: check_steps(scalars),
            "TensorBoard shows the texts of samples.jsonl": lambda: check_texts(out, accumulator),
            "train.tensorboard: false writes none": lambda: check_off(program, folder),
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
